"""Strategy `pmean` with `parallel.wire_dtype` int8 or int4: gradients are sent in blocks of 8 or 4 bits, with error feedback.

Every device holds the whole state, as in `pmean`. Each device divides its gradient sums by the weight of the whole
batch before it sends them, so that residuals are parts of mean gradients, whatever the weight of a batch. The residuals
of a skipped update are those of the update before.

Source: Seide et al. 2014, 1-bit SGD; Karimireddy et al. 2019, Error Feedback Fixes SignSGD.
"""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdp.optim import UpdateConfig
from jaxdp.parallel.devices import AXIS
from jaxdp.parallel.layout import PER_DEVICE, replicated_layout
from jaxdp.parallel.quantise import QuantisedSum, Residuals
from jaxdp.parallel.strategies.averages import apply_averages
from jaxdp.parallel.strategies.strategy import TOTALS_BYTES, SyncStrategy, Totals, advance
from jaxdp.parallel.wire_bytes import all_reduce_bytes
from jaxdp.state import TrainState
from jaxdp.typing import PyTree

RESIDUALS = "gradient_residuals"
"""Name of the only part of `sync`."""


@dataclasses.dataclass(frozen=True)
class Compressed(SyncStrategy):
    """Replicated state, quantised sum of gradients.

    Attributes:
        bits: Bits of a value on the wire, 8 or 4.
    """

    bits: int

    @property
    def _sum(self) -> QuantisedSum:
        return QuantisedSum(self.bits, self.num_devices)

    def init(self, params: PyTree) -> dict[str, Residuals]:
        """Returns the residuals of one device; see `SyncStrategy.init`."""
        return {RESIDUALS: self._sum.residuals(params)}

    def layout(self, shapes: TrainState) -> TrainState:
        """Returns the layout: residuals differ per device, the rest is replicated; see `SyncStrategy.layout`."""
        return replicated_layout(shapes).replace(sync=jax.tree.map(lambda _: PER_DEVICE, shapes.sync))

    def bytes_on_wire(self, shapes: PyTree, num_microbatches: int, dtype: str) -> float:
        """Returns the bytes of both stages, scales included; see `SyncStrategy.bytes_on_wire`."""
        return self._sum.bytes_on_wire(shapes) + all_reduce_bytes(TOTALS_BYTES, self.num_devices)

    def update(
        self, state: TrainState, gradients: PyTree, totals: Totals, update: UpdateConfig
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Sums the quantised gradients and applies the same update on every device; see `SyncStrategy.update`."""
        loss_sum, weight, tokens = jax.lax.psum(totals, AXIS)
        metrics = {"loss": loss_sum / weight, "tokens": tokens}
        metrics["learning_rate"] = update.schedule(state.step - state.skipped)
        old: Residuals = state.sync[RESIDUALS]
        means, new = self._sum(jax.tree.map(lambda leaf: leaf / weight, gradients), old)
        updated, good, metrics["grad_norm"] = apply_averages(
            state, update, means, jnp.float32(1.0), metrics["loss"], lambda means, _: means
        )
        residuals = jax.tree.map(lambda new, old: jnp.where(good, new, old), new, old)
        return advance(state, updated, good, metrics, sync={RESIDUALS: residuals})
