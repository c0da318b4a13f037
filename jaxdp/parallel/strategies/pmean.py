"""Strategy `pmean`: every device holds the whole state, and gradients are averaged in one all-reduce."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdp.optim import UpdateConfig
from jaxdp.parallel.buckets import GradientSync
from jaxdp.parallel.devices import AXIS
from jaxdp.parallel.strategies.averages import apply_averages
from jaxdp.parallel.strategies.strategy import TOTALS_BYTES, SyncStrategy, Totals, advance
from jaxdp.parallel.wire_bytes import all_reduce_bytes, num_bytes
from jaxdp.state import TrainState
from jaxdp.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Pmean(SyncStrategy):
    """Replicated state, all-reduce of gradients.

    Attributes:
        buckets: Buffers in which gradients travel.
    """

    buckets: GradientSync = dataclasses.field(default_factory=GradientSync)

    @property
    def has_device_gradients(self) -> bool:
        """Returns True; see `SyncStrategy.has_device_gradients`."""
        return True

    def update(
        self, state: TrainState, gradients: PyTree, totals: Totals, update: UpdateConfig
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Averages the gradients and applies the same update on every device; see `SyncStrategy.update`."""
        buffers = self.buckets.reduce(gradients, self.num_devices)
        # Numerator and denominator are both means over devices, so the device count cancels.
        loss_sum, weight, tokens = jax.lax.pmean(totals, AXIS)
        metrics = {"loss": loss_sum / weight, "tokens": tokens * self.num_devices}
        metrics["learning_rate"] = update.schedule(state.step - state.skipped)
        updated, good, metrics["grad_norm"] = apply_averages(
            state, update, buffers, weight, metrics["loss"], self.unpack
        )
        return advance(state, updated, good, metrics)

    def bytes_on_wire(self, shapes: PyTree, num_microbatches: int, dtype: str) -> float:
        """Returns the bytes of the all-reduce; see `SyncStrategy.bytes_on_wire`."""
        gradients = num_bytes(shapes, jnp.dtype(self.buckets.wire_dtype).itemsize)
        return all_reduce_bytes(gradients + TOTALS_BYTES, self.num_devices)

    def unpack(self, buffers: list[jax.Array], like: PyTree) -> PyTree:
        """Returns averages as a tree of the structure of `like`."""
        return self.buckets.unpack(buffers, like, self.num_devices)
