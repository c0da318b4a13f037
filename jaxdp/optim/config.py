"""Optimizer configuration and its validation."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from jaxdp.arguments import unregistered
from jaxdp.errors import UserError
from jaxdp.nearest import closest
from jaxdp.optim.registry import DIRECTIONS, SCHEDULES


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Keys of `config.optim` that affect the update, and the length of the run.

    Each optimizer reads a subset of the keys, documented at its function in
    `jaxdp.optim.optimizers`.

    Raises:
        UserError: A value is out of range; the message names `optim.<key>`.
    """

    name: str
    learning_rate: float  # peak, reached after warm-up
    schedule: str
    warmup_steps: int  # updates
    end_learning_rate: float  # at total_steps
    weight_decay: float  # decoupled; multiplied by the learning rate
    b1: float  # decay of the first moment
    b2: float  # decay of the second moment
    eps: float  # constant in the denominator
    momentum: float
    clip_norm: float  # maximum global gradient norm; 0: off
    total_steps: int  # updates
    freeze: tuple[str, ...] = ()  # path patterns of frozen parameters
    scales: tuple[tuple[str, float], ...] = ()  # (path pattern, learning rate factor)
    layer_decay: float = 1.0  # learning rate of a layer relative to the layer above
    weight_decay_end: float | None = None  # weight decay at total_steps; None: weight_decay
    cautious: bool = False  # weight decay only where it has the sign of the update

    def __post_init__(self):
        _check_choice("name", self.name, DIRECTIONS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        for key in ("learning_rate", "eps"):
            _check_range(key, getattr(self, key), "above 0", lambda value: value > 0)
        for key in ("end_learning_rate", "weight_decay", "clip_norm", "warmup_steps"):
            _check_range(key, getattr(self, key), "0 or above", lambda value: value >= 0)
        if self.weight_decay_end is not None:
            _check_range("weight_decay_end", self.weight_decay_end, "0 or above", lambda value: value >= 0)
        for key in ("b1", "b2", "momentum"):
            _check_range(key, getattr(self, key), "from 0 to below 1", lambda value: 0 <= value < 1)
        if self.total_steps < 1:
            raise UserError(f"total_steps is {self.total_steps}; expected at least 1 update: set config.total_steps.")


REGISTERED = {"name": "optimizer", "schedule": "schedule"}
"""Key -> what its values are registered as."""


def _check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        match = closest(value, choices)
        hint = f"; did you mean {match!r}?" if match else f". {unregistered(REGISTERED[key])}"
        raise UserError(f"optim.{key} is {value!r}; expected one of {', '.join(choices)}{hint}")


def _check_range(key: str, value: float, expected: str, is_valid) -> None:
    if not (math.isfinite(value) and is_valid(value)):
        raise UserError(f"optim.{key} is {value}; expected a finite number {expected}.")
