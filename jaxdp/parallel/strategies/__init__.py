"""Synchronisation strategies: how gradients and parameters travel between the devices (`parallel.sync`)."""

from jaxdp.parallel.strategies.registry import STRATEGIES, make_strategy
from jaxdp.parallel.strategies.strategy import SyncStrategy

__all__ = ["STRATEGIES", "SyncStrategy", "make_strategy"]
