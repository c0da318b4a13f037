"""Interface of synchronisation strategies: what each device holds, and how gradients become the next state."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdp.optim import UpdateConfig, Updated
from jaxdp.parallel.devices import Topology
from jaxdp.parallel.layout import PER_DEVICE, REPLICATED, abstract_true, from_true, replicated_layout, to_true
from jaxdp.state import TrainState
from jaxdp.typing import PyTree

TOTALS_BYTES = 12
"""Bytes of `Totals`."""

Totals = jax.Array
"""Sums of one device over its examples, `[3] float32`: loss, weight and tokens read."""


@dataclasses.dataclass(frozen=True)
class SyncStrategy(abc.ABC):
    """Synchronisation strategy: the layout of the state, and the update from gradient sums to the next state.

    A strategy changes neither the batches nor the loss. `parallel.sync` names it; `STRATEGIES` lists all.

    Attributes:
        num_devices: Number of devices of the run.
    """

    num_devices: int

    @property
    def has_device_gradients(self) -> bool:
        """Returns whether `update` receives the gradients of this device's examples alone, at the parameters of all devices."""
        return False

    def init(self, params: PyTree) -> PyTree:
        """Returns the strategy's own state at step 0, in true shapes; of a leaf per device, the value of one device.

        Returns:
            A dict of named parts; () if it has none. A run that resumes restores a part where its names and shapes
            are those of the checkpoint, and otherwise takes it from `initial_sync`. The names of parts are words for
            the user.
        """
        return ()

    def layout(self, shapes: TrainState) -> TrainState:
        """Returns the layout of every leaf of the state.

        Args:
            shapes: State with the true shape of every leaf.
        """
        return replicated_layout(shapes)

    @abc.abstractmethod
    def update(
        self, state: TrainState, gradients: PyTree, totals: Totals, update: UpdateConfig
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Applies one update; for use inside the step of one device.

        Args:
            state: State as this device holds it.
            gradients: Sums over the examples of this device, in the layout of the parameters: of a sharded
                parameter the sum over all devices.
            totals: Sums of the loss, the weights and the tokens of this device.
            update: Settings of the update.

        Returns:
            The next state, and metrics that are equal on all devices: `loss`, `tokens`, `learning_rate`,
            `grad_norm`, `skipped` and `skipped_in_a_row`; and `norms`, if the update computes them, as of
            `jaxdp.optim.norms.sums_of_squares` over all devices.
        """

    def describe(self) -> str:
        """Describes for the startup report what is not as in `pmean`; empty: nothing."""
        return ""

    def adapt(
        self, direction: optax.GradientTransformation, needs_whole: Callable[[str, Any], bool] | None
    ) -> optax.GradientTransformation:
        """Returns the direction of an optimizer for parameters as `update` passes them.

        Args:
            direction: Optax transformation.
            needs_whole: Which parameters it must see whole, by name and leaf; None: it can update shards.
        """
        return direction

    def bytes_on_wire(self, shapes: PyTree, num_microbatches: int, dtype: str) -> float | None:
        """Returns the bytes that a device sends in one step, on average over the steps, by ring algorithms.

        They include the totals, but not what `adapt` and penalties gather, and not the control word.

        Args:
            shapes: True shapes of the parameters.
            num_microbatches: Number of microbatches of a step.
            dtype: Compute dtype, in which a model gathers sharded parameters.

        Returns:
            The bytes; None: unknown, so metrics.jsonl has no `perf/bytes_on_wire`.
        """
        return None

    def eval_params(self, state: TrainState) -> PyTree:
        """Returns the parameters to evaluate, export and average; called outside of programs."""
        return state.params if state.ema is None else state.ema

    def eval_layout(self, layout: TrainState) -> PyTree:
        """Returns the layout of `eval_params`."""
        return layout.params if layout.ema is None else layout.ema

    def portable_shapes(self, shapes: TrainState, layout: TrainState, topology: Topology) -> TrainState:
        """Returns shapes and shardings of what `to_portable` returns.

        A leaf per device keeps its device axis, so only as many devices restore it: for leaves of `sync` alone.
        """
        return abstract_true(shapes, layout, topology)

    def to_portable(self, state: TrainState, layout: TrainState) -> TrainState:
        """Converts a state to its form in checkpoints, in true shapes; can be traced by JAX.

        Not called unless a strategy overrides it: checkpoints then have the leaves as the layout describes them.
        """
        return to_true(state, layout)

    def from_portable(self, saved: TrainState, layout: TrainState) -> TrainState:
        """Converts the form on disk to a state on these devices; can be traced by JAX."""
        kept = jax.tree.map(lambda of_leaf: REPLICATED if of_leaf == PER_DEVICE else of_leaf, layout.sync)
        return from_true(saved, dataclasses.replace(layout, sync=kept), self.num_devices)

    def initial_sync(self, saved: TrainState, layout: TrainState) -> PyTree:
        """Returns `sync` in its form on disk for a state that was saved without it; can be traced by JAX.

        Args:
            saved: Form on disk of the state; its `sync` is not read.
            layout: Layout of every leaf of the state.
        """
        kept = jax.tree.map(lambda of_leaf: of_leaf if of_leaf == PER_DEVICE else REPLICATED, layout.sync)
        return from_true(self.init(saved.params), kept, self.num_devices)


def advance(
    state: TrainState, updated: Updated, good: jax.Array, metrics: dict[str, Any], **replaced: PyTree
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the state after one batch with its counters, and the metrics with them.

    Args:
        state: State before the batch.
        updated: Parameters, optimizer state and moving average after it.
        good: Whether the update was applied, `[] bool`.
        metrics: Metrics of the update.
        **replaced: Further fields of the state to replace.
    """
    skipped = (~good).astype(jnp.int32)
    fields = updated._asdict()
    norms = fields.pop("norms")
    if norms is not None:
        metrics = metrics | {"norms": norms}
    state = dataclasses.replace(
        state,
        **fields,
        **replaced,
        step=state.step + 1,
        skipped=state.skipped + skipped,
        skipped_in_a_row=(state.skipped_in_a_row + 1) * skipped,
    )
    return state, metrics | {"skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}
