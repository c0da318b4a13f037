"""The Transformer: configuration, presets, module, KV cache, and its sizes."""

from jaxdp.model.accounting import (
    flops_per_row,
    flops_per_token,
    init_params,
    min_parameters,
    num_parameters,
    parameter_shapes,
)
from jaxdp.model.cache import KVCache, init_cache
from jaxdp.model.config import (
    CHOICES,
    HEAD_PARAMETERS,
    HEADS,
    POOLINGS,
    POSITIONS,
    TransformerConfig,
)
from jaxdp.model.presets import PRESETS, model_config, preset_values
from jaxdp.model.stacking import stack_layers, unstack_layers
from jaxdp.model.transformer import Transformer

__all__ = [
    "CHOICES",
    "HEADS",
    "HEAD_PARAMETERS",
    "POOLINGS",
    "POSITIONS",
    "PRESETS",
    "KVCache",
    "Transformer",
    "TransformerConfig",
    "flops_per_row",
    "flops_per_token",
    "init_cache",
    "init_params",
    "min_parameters",
    "model_config",
    "num_parameters",
    "parameter_shapes",
    "preset_values",
    "stack_layers",
    "unstack_layers",
]
