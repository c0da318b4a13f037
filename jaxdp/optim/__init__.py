"""Optimizers, learning rate schedules, gradient clipping, EMA, penalties and per-parameter learning rates."""

from jaxdp.optim.config import OptimizerConfig
from jaxdp.optim.optimizers import clip_factor, make_optimizer, update_ema
from jaxdp.optim.penalties import penalized
from jaxdp.optim.registry import register_optimizer, register_schedule
from jaxdp.optim.rules import decay_mask
from jaxdp.optim.scaling import holding_frozen, scaling_rules
from jaxdp.optim.schedules import make_schedule
from jaxdp.optim.spikes import is_spike, track_loss
from jaxdp.optim.update import SkipBy, UpdateConfig, Updated, apply_update, is_good, unless_skipped

__all__ = [
    "OptimizerConfig",
    "SkipBy",
    "UpdateConfig",
    "Updated",
    "apply_update",
    "clip_factor",
    "decay_mask",
    "holding_frozen",
    "is_good",
    "is_spike",
    "make_optimizer",
    "make_schedule",
    "penalized",
    "register_optimizer",
    "register_schedule",
    "scaling_rules",
    "track_loss",
    "unless_skipped",
    "update_ema",
]
