"""Step setup: model, update and state of a run on given devices, and its compiled train step. It needs shapes, not data."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxdp.errors import UserError
from jaxdp.inference.evaluator import compile_eval_step
from jaxdp.model import Transformer, flops_per_sequence, init_params, parameter_shapes
from jaxdp.optim import UpdateConfig
from jaxdp.parallel.control_word import control_word_spec
from jaxdp.parallel.devices import BatchShape, Topology
from jaxdp.parallel.layout import device_axes
from jaxdp.parallel.placement import abstract_batch
from jaxdp.parallel.sharding import parameter_gather
from jaxdp.parallel.spmd import Program, compile_spmd, trace_spmd
from jaxdp.parallel.state_placement import StatePlacement
from jaxdp.parallel.strategies import SyncStrategy, make_strategy
from jaxdp.run_config import RunConfig
from jaxdp.state import TrainState
from jaxdp.step import make_train_step
from jaxdp.tasks import Task
from jaxdp.tasks.make import batch_spec
from jaxdp.training.update import make_initial_state, make_update, training_loss
from jaxdp.typing import PyTree


class StepSetup:
    """Parts of a run that the train step is compiled from.

    Attributes:
        config: Resolved configuration.
        task: Task with the vocabularies of the run.
        total_steps: Optimizer updates of the run.
        topology: Devices; they may be compile-only.
        shape: Division of the global batch.
        strategy: Synchronisation between devices.
        update: Settings of the update.
        placement: Placement of the train state.
        model: Model that trains; it gathers sharded parameters.
        eval_model: Model for the parameters to evaluate.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        model: Transformer,
        shape: BatchShape,
        total_steps: int,
        topology: Topology,
    ):
        """Builds the parts; compiles nothing."""
        self.config, self.task, self.total_steps = config, task, total_steps
        self.topology, self.shape = topology, shape
        shapes = parameter_shapes(model.config)
        self.strategy: SyncStrategy = make_strategy(config.parallel, topology, shapes)
        update = make_update(config.optim, total_steps, topology.platform, self.strategy)
        self.update = dataclasses.replace(update, norms_every_steps=config.log.norms_every_steps, last_step=total_steps)
        if config.log.noise_scale:
            check_noise_scale(config, self.strategy)
        self.placement = StatePlacement(self.strategy, topology, shapes, make_initial_state(self.update, self.strategy))
        self.model = self._gathering(model, self.placement.layout.params)
        self.eval_model = self._gathering(model, self.placement.eval_layout)

    def _gathering(self, model: Transformer, layout: PyTree) -> Transformer:
        """Returns the model for parameters with this layout: it gathers those that are sharded."""
        return model.clone(gather=parameter_gather(layout, model.config.dtype))

    def compile_step(self, update: UpdateConfig | None = None, shape: BatchShape | None = None) -> Program:
        """Compiles the train step for these devices: (state, batch, control_word) -> (state, metrics).

        Args:
            update: Update to compare with that of the run; None: that of the run.
            shape: Division of the global batch; None: that of the run.
        """
        function, specs, out_axes = self._step(update or self.update, shape or self.shape)
        return compile_spmd(function, self.topology, *specs, donated=(0,), out_axes=out_axes)

    def trace_step(self) -> Any:
        """Returns the jaxpr of the train step, without compiling it."""
        function, specs, out_axes = self._step(self.update, self.shape)
        return trace_spmd(function, self.topology, *specs, out_axes=out_axes)

    def _step(self, update: UpdateConfig, shape: BatchShape) -> tuple[Callable, tuple[PyTree, ...], PyTree]:
        """Returns the train step of one device, the specs of its arguments and the mapped axes of its results."""
        step = make_train_step(
            training_loss(self.config.optim, self.task, self.model, self.placement.layout.params),
            update,
            self.strategy,
            shape,
            self.config.seed,
            with_device_squares=self.config.log.noise_scale,
        )
        specs = (
            self.placement.abstract,
            abstract_batch(batch_spec(self.task, shape.device_batch_size), self.topology),
            abstract_batch(control_word_spec(), self.topology),
        )
        return step, specs, (device_axes(self.placement.abstract), None)

    def compile_eval_step(self) -> Program:
        """Compiles the evaluation of one batch, as `Evaluator` runs it."""
        return compile_eval_step(
            self.task,
            self.eval_model,
            self.shape.global_batch_size,
            self.shape.microbatch_size,
            self.topology,
            self.placement.abstract_eval_params,
        )

    def fresh_params(self) -> PyTree:
        """Initialises the parameters from the seed; can be traced by JAX."""
        return init_params(self.model.config, jax.random.key(self.config.seed))

    def fresh_state(self) -> TrainState:
        """Initialises state 0 from the seed, the same on any number of devices."""
        return self.placement.fresh(self.fresh_params)

    @property
    def flops_per_step(self) -> float:
        """Returns the model FLOPs of one update over all devices."""
        length, num_predicted = self.config.data.length, self.task.num_predicted
        model = self.model.config
        flops = flops_per_sequence(model, length, target_length=model.max_target_length, num_predicted=num_predicted)
        return float(flops) * self.config.global_batch_size

    @property
    def bytes_on_wire(self) -> float | None:
        """Returns the bytes that a device sends to others in one step; None: the strategy does not state them."""
        model = self.model.config
        return self.strategy.bytes_on_wire(parameter_shapes(model), self.shape.num_microbatches, model.dtype)


def check_noise_scale(config: RunConfig, strategy: SyncStrategy) -> None:
    """Raises UserError if a run has no gradients of single devices next to that of the global batch."""
    parallel = config.parallel
    if not strategy.has_device_gradients:
        raise UserError(
            f"log.noise_scale=True is not supported with parallel.sync={parallel.sync} and wire_dtype={parallel.wire_dtype}, which "
            "have no gradients of single devices at the parameters of all; use sync=pmean or zero1 and wire_dtype=float32 or "
            "bfloat16, or set log.noise_scale=False."
        )
    if strategy.num_devices == 1:
        raise UserError(
            "log.noise_scale=True compares the gradients of several devices, found 1 device; use two or more, or set "
            "log.noise_scale=False."
        )
