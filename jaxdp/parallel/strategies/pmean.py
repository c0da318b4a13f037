"""Strategy `pmean`: every device holds the whole state, and gradients are averaged in one all-reduce."""

import dataclasses

import jax
import optax

from jaxdp.optim import UpdateConfig, Updated, apply_update, clip_factor, is_good, unless_skipped
from jaxdp.parallel.buckets import GradientSync
from jaxdp.parallel.devices import AXIS
from jaxdp.parallel.strategies.strategy import SyncStrategy, Totals, advance
from jaxdp.state import TrainState
from jaxdp.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Pmean(SyncStrategy):
    """Replicated state, all-reduce of gradients.

    Attributes:
        buckets: Buffers in which gradients travel.
    """

    buckets: GradientSync = dataclasses.field(default_factory=GradientSync)

    def update(
        self, state: TrainState, gradients: PyTree, totals: Totals, update: UpdateConfig
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Averages the gradients and applies the same update on every device; see `SyncStrategy.update`."""
        buffers = self.buckets.reduce(gradients, self.num_devices)
        # Numerator and denominator are both means over devices, so the device count cancels.
        loss_sum, weight, tokens = jax.lax.pmean(totals, AXIS)
        metrics = {"loss": loss_sum / weight, "tokens": tokens * self.num_devices}
        metrics["learning_rate"] = update.schedule(state.step - state.skipped)
        metrics["grad_norm"] = optax.tree.norm(buffers) / weight
        good = is_good(update, state.opt_state, state.skipped_in_a_row, metrics["loss"], metrics["grad_norm"])
        # A single factor divides the gradient sums by the weight and clips the mean.
        factor = clip_factor(metrics["grad_norm"], update.clip_norm) / weight

        def apply(old: Updated) -> Updated:
            sums = self.buckets.unpack(buffers, old.params, self.num_devices)
            means = jax.tree.map(lambda leaf: leaf * factor, sums)
            return apply_update(update, old, means, metrics["loss"])

        old = Updated(state.params, state.opt_state, state.ema)
        return advance(state, unless_skipped(update.skip_by, good, apply, old), good, metrics)
