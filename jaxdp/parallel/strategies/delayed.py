"""Strategy `delayed`: gradients are applied a fixed number of steps after their batch, with bounded staleness.

Each device queues the gradient sums of its own examples and the totals of its batch. A step reduces and applies the
sums that were queued `num_steps` steps before. The all-reduce therefore depends on nothing that the step computes, and
the compiler can run it during the forward and backward pass. The first `num_steps` steps update nothing, and the
gradients of the last `num_steps` batches of a run are never applied.

Asynchronous training applies gradients late by chance; here every gradient is late by the same number of steps, so runs
repeat exactly. Updates without locks, as in Hogwild (Recht et al. 2011), cannot be written as one SPMD program.

Source: Ho et al. 2013, Stale Synchronous Parallel; Langford et al. 2009, Slow Learners are Fast (delayed SGD).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdp.optim import UpdateConfig
from jaxdp.parallel.devices import AXIS
from jaxdp.parallel.layout import PER_DEVICE, REPLICATED, replicated_layout
from jaxdp.parallel.strategies.averages import apply_averages
from jaxdp.parallel.strategies.pmean import Pmean
from jaxdp.parallel.strategies.strategy import TOTALS_BYTES, Totals, advance
from jaxdp.parallel.wire_bytes import gather_bytes
from jaxdp.state import TrainState
from jaxdp.typing import PyTree

QUEUE = "queued_gradients"
"""Name of the only part of `sync`, so that checkpoints keep the queue whole or not at all."""


class GradientQueue(NamedTuple):
    """Gradient sums of one device that are not applied yet; batch N has entry N modulo the delay.

    Attributes:
        gradients: Sums over the examples of this device, `[delay, ...]` of every parameter.
        totals: Sums of loss, weight and tokens of this device, `[delay, 3] float32`.
        num_queued: Number of entries that hold a gradient, `[] int32`, equal on all devices.
    """

    gradients: PyTree
    totals: jax.Array
    num_queued: jax.Array


@dataclasses.dataclass(frozen=True)
class Delayed(Pmean):
    """Replicated state, all-reduce of the gradients of an earlier step.

    Attributes:
        num_steps: Delay in steps, 1 or more.
    """

    num_steps: int = 1

    @property
    def has_device_gradients(self) -> bool:
        """Returns False: the norm of the gradient is that of an earlier batch; see `SyncStrategy.has_device_gradients`."""
        return False

    def init(self, params: PyTree) -> dict[str, GradientQueue]:
        """Returns the empty queue of one device; see `SyncStrategy.init`."""
        gradients = jax.tree.map(lambda leaf: jnp.zeros((self.num_steps, *leaf.shape), leaf.dtype), params)
        totals = jnp.zeros((self.num_steps, 3), jnp.float32)
        return {QUEUE: GradientQueue(gradients, totals, jnp.zeros((), jnp.int32))}

    def layout(self, shapes: TrainState) -> TrainState:
        """Returns the layout: the queue differs per device, the rest is replicated; see `SyncStrategy.layout`."""
        queue = jax.tree.map(lambda _: PER_DEVICE, shapes.sync[QUEUE])
        return replicated_layout(shapes).replace(sync={QUEUE: queue._replace(num_queued=REPLICATED)})

    def bytes_on_wire(self, shapes: PyTree, num_microbatches: int, dtype: str) -> float:
        """Returns the bytes of the all-reduce and of the totals read now; see `SyncStrategy.bytes_on_wire`."""
        totals = gather_bytes(TOTALS_BYTES * self.num_devices, self.num_devices)
        return super().bytes_on_wire(shapes, num_microbatches, dtype) + totals

    def update(
        self, state: TrainState, gradients: PyTree, totals: Totals, update: UpdateConfig
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Applies the oldest gradient of the queue and queues the new one in its place; see `SyncStrategy.update`.

        The metrics `loss` and `tokens` are of the batch read now, `grad_norm` and `learning_rate` of the update
        applied now: 0 in the first steps.
        """
        queue: GradientQueue = state.sync[QUEUE]
        is_ready = queue.num_queued >= self.num_steps
        entry, queued = state.step % self.num_steps, (queue.gradients, queue.totals)
        old_gradients, old_totals = jax.tree.map(lambda leaf: leaf[entry], queued)
        buffers = self.buckets.reduce(old_gradients, self.num_devices)
        old = jax.lax.pmean(old_totals, AXIS)
        # Not by `pmean`: XLA joins all-reduces, and the gradients would wait for the loss of this step.
        new = jax.lax.all_gather(totals, AXIS).sum(axis=0)
        # The weight of an entry that was never filled is 0.
        weight = jnp.where(is_ready, old[1], 1.0)
        updated, good, grad_norm = apply_averages(
            state, update, buffers, weight, old[0] / weight, self.unpack, is_ready
        )
        rate = update.schedule(jnp.maximum(state.step - self.num_steps - state.skipped, 0))
        metrics = {
            "loss": new[0] / new[1],
            "tokens": new[2],
            "learning_rate": jnp.where(is_ready, rate, 0.0),
            "grad_norm": grad_norm,
        }
        new_sums, new_totals = jax.tree.map(lambda leaf, sums: leaf.at[entry].set(sums), queued, (gradients, totals))
        new_queue = GradientQueue(new_sums, new_totals, jnp.minimum(queue.num_queued + 1, self.num_steps))
        return advance(state, updated, good | ~is_ready, metrics, sync={QUEUE: new_queue})
