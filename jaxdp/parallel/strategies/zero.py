"""Strategies `zero1` and `zero3`: every device updates its shard of the parameters.

Both sum the gradients of a shard on the device that holds it, which updates that shard of the optimizer state, the
parameters and their moving average. `zero1` keeps the parameters whole on every device and gathers them after each
update: the parameter server of data parallelism, sharded over the workers. `zero3` shards the parameters too; the
model gathers each layer where it is used, and the gradients of sharded parameters arrive summed and scattered, as the
transpose of that gather.

Source: Rajbhandari et al. 2020, ZeRO, section 5. Differs: small parameters stay replicated; see `shard_axis`.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxdp.optim import UpdateConfig, Updated, apply_update, clip_factor, is_good, unless_skipped
from jaxdp.optim.norms import entries_of
from jaxdp.parallel.devices import AXIS
from jaxdp.parallel.layout import REPLICATED, any_layer, layout_like, params_layout, replicated_layout
from jaxdp.parallel.sharding import gather_all, on_whole_leaves, own_shards, scatter_sum
from jaxdp.parallel.strategies.strategy import TOTALS_BYTES, SyncStrategy, Totals, advance
from jaxdp.parallel.wire_bytes import all_reduce_bytes, gather_bytes, num_bytes
from jaxdp.state import TrainState
from jaxdp.trees import named_leaves
from jaxdp.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Zero(SyncStrategy):
    """State sharded over the devices.

    Attributes:
        shapes: True shapes of the parameters.
        shard_params: Whether the parameters are sharded too (`zero3`).
    """

    shapes: PyTree
    shard_params: bool

    @property
    def has_device_gradients(self) -> bool:
        """Returns True for `zero1`; in `zero3` they arrive summed; see `SyncStrategy.has_device_gradients`."""
        return not self.shard_params

    def layout(self, shapes: TrainState) -> TrainState:
        """Returns the layout: optimizer state and moving average sharded like the parameters; see `SyncStrategy.layout`."""
        shards = self._shards
        return replicated_layout(shapes).replace(
            params=shards if self.shard_params else replicated_layout(shapes.params),
            opt_state=layout_like(shapes.opt_state, shapes.params, shards),
            ema=None if shapes.ema is None else shards,
        )

    def describe(self) -> str:
        """Describes shards and what stays replicated; see `SyncStrategy.describe`."""
        sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(self.shapes)]
        kept = [size for size, layout in zip(sizes, jax.tree.leaves(self._shards), strict=True) if layout == REPLICATED]
        what = "parameters and optimizer state" if self.shard_params else "optimizer state"
        return (
            f"{'zero3' if self.shard_params else 'zero1'}: {what} in {self.num_devices} shards; {len(kept)} of "
            f"{len(sizes)} arrays, with {sum(kept) / sum(sizes):.2%} of the parameters, stay replicated: they are "
            "small, or no axis divides"
        )

    def adapt(self, direction, needs_whole):
        """Returns the direction for shards; see `SyncStrategy.adapt`."""
        if needs_whole is None:
            return direction
        return on_whole_leaves(direction, needs_whole, self._shards, self.num_devices)

    def bytes_on_wire(self, shapes: PyTree, num_microbatches: int, dtype: str) -> float:
        """Returns the bytes of gathered parameters and scattered gradients; see `SyncStrategy.bytes_on_wire`.

        In `zero3` each microbatch gathers the parameters of the layers twice, forward and backward, those outside of
        the layers once, and scatters the gradients of all in float32.
        """
        named, layouts = named_leaves(shapes), jax.tree.leaves(params_layout(shapes, self.num_devices))
        sharded = [entry for entry, layout in zip(named, layouts, strict=True) if layout.kind == "sharded"]
        whole = num_bytes([leaf for _, leaf in sharded])
        # All that is replicated, the totals, and the squares of the shards for the norm.
        small = all_reduce_bytes(num_bytes(shapes) - whole + TOTALS_BYTES + 4, self.num_devices)
        if not self.shard_params:
            return small + 2 * gather_bytes(whole, self.num_devices)
        itemsize = jnp.dtype(dtype).itemsize
        in_layers = num_bytes([leaf for name, leaf in sharded if "*" in any_layer(name).split("/")], itemsize)
        gathered = num_bytes([leaf for _, leaf in sharded], itemsize) + in_layers
        return small + num_microbatches * gather_bytes(gathered + whole, self.num_devices)

    @property
    def _shards(self) -> PyTree:
        return params_layout(self.shapes, self.num_devices)

    def update(
        self, state: TrainState, gradients: PyTree, totals: Totals, update: UpdateConfig
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Updates this device's shard; see `SyncStrategy.update`."""
        shards = self._shards
        sums, (loss_sum, weight, tokens) = self._summed(gradients, totals)
        metrics: dict[str, Any] = {"loss": loss_sum / weight, "tokens": tokens}
        metrics["learning_rate"] = update.schedule(state.step - state.skipped)
        metrics["grad_norm"] = jnp.sqrt(_squares(sums, shards)) / weight
        good = is_good(update, state.opt_state, state.skipped_in_a_row, metrics["loss"], metrics["grad_norm"])
        factor = clip_factor(metrics["grad_norm"], update.clip_norm) / weight

        def apply(old: Updated) -> Updated:
            return apply_update(update, old, jax.tree.map(lambda leaf: leaf * factor, sums), metrics["loss"])

        own = state.params
        if not self.shard_params:
            own = own_shards(own, shards, self.num_devices)
        old = Updated(own, state.opt_state, state.ema, update.no_norms(own))
        updated = unless_skipped(update, state.step, good, apply, old)
        if updated.norms is not None:
            updated = updated._replace(norms=self._sum_norms(updated.norms))
        if not self.shard_params:
            # Outside of the branch of a skipped update, so that the branch has no collective.
            updated = updated._replace(params=gather_all(updated.params, shards))
        return advance(state, updated, good, metrics)

    def _sum_norms(self, sums: jax.Array) -> jax.Array:
        """Adds the sums of squares of the shards of all devices; those of replicated parameters are whole."""
        flags = [layout.kind == "sharded" for layout in jax.tree.leaves(self._shards)]
        is_sharded = entries_of(self.shapes, flags)[None, :]
        return jax.lax.psum(jnp.where(is_sharded, sums, 0.0), AXIS) + jnp.where(is_sharded, 0.0, sums)

    def _summed(self, gradients: PyTree, totals: Totals) -> tuple[PyTree, Totals]:
        """Sums gradients and totals over all devices: this device's shards, and all of what is replicated."""
        leaves, structure = jax.tree.flatten(gradients)
        layouts = jax.tree.leaves(self._shards)
        small = [leaf for leaf, layout in zip(leaves, layouts, strict=True) if layout.kind == "replicated"]
        # All that is replicated travels in one buffer with the totals.
        buffer = jax.lax.psum(jnp.concatenate([totals, *(leaf.reshape(-1) for leaf in small)]), AXIS)
        summed, end = [], totals.size
        for leaf, layout in zip(leaves, layouts, strict=True):
            if layout.kind == "replicated":
                start, end = end, end + leaf.size
                summed.append(buffer[start:end].reshape(leaf.shape))
            else:
                # In `zero3` the gradient of a gathered parameter is a shard already.
                summed.append(leaf if self.shard_params else scatter_sum(leaf, layout.axis))
        return jax.tree.unflatten(structure, summed), buffer[: totals.size]


def _squares(tree: PyTree, shards: PyTree) -> jax.Array:
    """Sums the squares of a tree of shards and replicated leaves over all devices, `[] float32`."""
    sharded = replicated = jnp.zeros((), jnp.float32)
    for leaf, layout in zip(jax.tree.leaves(tree), jax.tree.leaves(shards), strict=True):
        squares = jnp.sum(jnp.square(leaf))
        if layout.kind == "sharded":
            sharded += squares
        else:
            replicated += squares
    return jax.lax.psum(sharded, AXIS) + replicated
