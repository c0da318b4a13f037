"""Optimizer configuration and its validation."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from jaxdp.errors import UserError

OptimizerName = Literal[
    "adamw", "adam", "sgd", "momentum", "rmsprop", "adagrad", "adafactor", "lion", "muon"
]
ScheduleName = Literal["constant", "linear", "cosine", "rsqrt", "wsd"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Keys of `config.optim` that affect the update, and the length of the run.

    Each optimizer reads a subset of the keys, documented at its function in
    `jaxdp.optim.optimizers`.

    Raises:
        UserError: A value is out of range; the message names `optim.<key>`.
    """

    name: OptimizerName
    learning_rate: float  # peak, reached after warm-up
    schedule: ScheduleName
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

    def __post_init__(self):
        _check_choice("name", self.name, get_args(OptimizerName))
        _check_choice("schedule", self.schedule, get_args(ScheduleName))
        for key in ("learning_rate", "eps"):
            _check_range(key, getattr(self, key), "above 0", lambda value: value > 0)
        for key in ("end_learning_rate", "weight_decay", "clip_norm", "warmup_steps"):
            _check_range(key, getattr(self, key), "0 or above", lambda value: value >= 0)
        for key in ("b1", "b2", "momentum"):
            _check_range(key, getattr(self, key), "from 0 to below 1", lambda value: 0 <= value < 1)
        if self.total_steps < 1:
            raise UserError(f"total_steps is {self.total_steps}; expected at least 1 update: set config.total_steps.")


def _check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"optim.{key} is {value!r}; expected one of {', '.join(choices)}.")


def _check_range(key: str, value: float, expected: str, is_valid) -> None:
    if not (math.isfinite(value) and is_valid(value)):
        raise UserError(f"optim.{key} is {value}; expected a finite number {expected}.")
