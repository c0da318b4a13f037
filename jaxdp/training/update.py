"""Optimizer update, training objective and initial state of a run."""

import dataclasses
from collections.abc import Callable

import optax

from jaxdp.model import Transformer
from jaxdp.optim import (
    OptimizerConfig,
    UpdateConfig,
    holding_frozen,
    make_optimizer,
    make_schedule,
    penalized,
    scaling_rules,
    track_loss,
)
from jaxdp.optim.registry import is_built_in
from jaxdp.parallel.sharding import gather_all
from jaxdp.parallel.strategies import SyncStrategy
from jaxdp.run_config import OptimConfig
from jaxdp.state import TrainState, initial_state
from jaxdp.step import Loss
from jaxdp.tasks import Task
from jaxdp.tasks.model_functions import task_loss
from jaxdp.typing import PyTree


def optimizer_config(optim: OptimConfig, total_steps: int) -> OptimizerConfig:
    """Returns the settings of the optimizer for a run of this length.

    Raises:
        UserError: A value is out of its range.
    """
    names = {field.name for field in dataclasses.fields(OptimizerConfig)}
    return OptimizerConfig(
        **{key: value for key, value in dataclasses.asdict(optim).items() if key in names}, total_steps=total_steps
    )


def make_update(optim: OptimConfig, total_steps: int, platform: str, strategy: SyncStrategy) -> UpdateConfig:
    """Returns optimizer, schedule, clipping and averaging of parameters, for the state as the strategy lays it out."""
    settings = optimizer_config(optim, total_steps)
    optimizer = make_optimizer(settings, strategy.adapt)
    if optim.spike_factor:
        optimizer = optax.chain(optimizer, track_loss())
    return UpdateConfig(
        optimizer,
        make_schedule(settings),
        clip_norm=optim.clip_norm,
        ema_decay=optim.ema_decay,
        spike_factor=optim.spike_factor,
        max_skipped_in_a_row=optim.max_skipped_in_a_row,
        skip_by="branch" if platform == "cpu" else "select",
        checks_result=not is_built_in("optimizer", optim.name),
    )


def training_loss(optim: OptimConfig, task: Task, model: Transformer, layout: PyTree) -> Loss:
    """Returns the training objective: the task's loss and the penalties; frozen parameters get no gradient.

    Args:
        optim: Penalties and frozen parameters.
        task: Task.
        model: The module, which gathers sharded parameters.
        layout: Layout of the parameters.
    """
    loss = penalized(task_loss(task, model, train=True), optim.l1, optim.l2, lambda params: gather_all(params, layout))
    return holding_frozen(loss, scaling_rules(optim.freeze, optim.scales))


def make_initial_state(update: UpdateConfig, strategy: SyncStrategy) -> Callable[[PyTree], TrainState]:
    """Returns a traceable function from initial parameters to state 0, both in true shapes."""

    def initialise(params: PyTree) -> TrainState:
        return initial_state(params, update.optimizer, with_ema=update.ema_decay > 0, sync=strategy.init(params))

    return initialise
