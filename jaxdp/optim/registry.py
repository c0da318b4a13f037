"""Registries of optimizers and learning rate schedules: the values of `optim.name` and `optim.schedule`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import optax

from jaxdp.arguments import check_registration

if TYPE_CHECKING:
    from jaxdp.optim.config import OptimizerConfig

Direction = Callable[["OptimizerConfig"], optax.GradientTransformation]
"""Function that returns the direction of an update, before weight decay and learning rate."""

Rate = Callable[[jax.Array, "OptimizerConfig"], jax.Array]
"""Function (count of applied updates, config) -> learning rate after the warm-up."""

DIRECTIONS: dict[str, Direction] = {}
"""Optimizers by name; `jaxdp.optim.optimizers` adds the built-in ones."""

SCHEDULES: dict[str, Rate] = {}
"""Schedules by name; `jaxdp.optim.schedules` adds the built-in ones."""

_BUILT_IN: dict[str, set[str]] = {}


def add_built_in(kind: str, table: dict, entries: dict) -> None:
    """Adds entries to a table, which `register_optimizer` and `register_schedule` then refuse to replace."""
    table |= entries
    _BUILT_IN[kind] = set(entries)


def is_built_in(kind: str, name: str) -> bool:
    """Returns whether the optimizer or schedule of this name is part of jaxdp."""
    return name in _BUILT_IN[kind]


def register_optimizer(name: str, direction: Direction) -> None:
    """Makes `optim.name = name` use an Optax transformation; a later registration of the name replaces it.

    Clipping, weight decay, the learning rate, `optim.freeze` and `optim.scales` apply to it as to the built-in ones.

    Args:
        name: Name of the optimizer.
        direction: Function from an `OptimizerConfig` to the Optax transformation of gradients into the direction,
            e.g. `lambda config: optax.scale_by_adam(config.b1, config.b2)`. The learning rate is not part of it.

    Raises:
        UserError: The name is not a string or that of a built-in optimizer, or the function cannot be called.
    """
    check_registration(
        "optimizer", name, direction, "a function from an OptimizerConfig", ["config"], _BUILT_IN["optimizer"]
    )
    DIRECTIONS[name] = direction


def register_schedule(name: str, rate: Rate) -> None:
    """Makes `optim.schedule = name` use a learning rate; a later registration of the name replaces it.

    Args:
        name: Name of the schedule.
        rate: Function (count, config) -> learning rate after the warm-up, in operations that JAX can trace. `count`
            is the number of updates applied, a float32 array of any shape; `config` has `learning_rate`,
            `end_learning_rate`, `warmup_steps` and `total_steps`.

    Raises:
        UserError: The name is not a string or that of a built-in schedule, or the function cannot be called.
    """
    check_registration(
        "schedule",
        name,
        rate,
        "a function (count, config) -> learning rate",
        ["count", "config"],
        _BUILT_IN["schedule"],
    )
    SCHEDULES[name] = rate
