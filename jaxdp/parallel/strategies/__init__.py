"""Synchronisation strategies: how gradients and parameters travel between the devices (`parallel.sync`)."""

from jaxdp.parallel.strategies.averages import apply_averages
from jaxdp.parallel.strategies.registry import STRATEGIES, make_strategy, register_strategy
from jaxdp.parallel.strategies.strategy import SyncStrategy, advance

__all__ = ["STRATEGIES", "SyncStrategy", "advance", "apply_averages", "make_strategy", "register_strategy"]
