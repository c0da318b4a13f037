"""Strategy `local`: workers train by themselves for some steps, then their parameters are averaged (local SGD, DiLoCo).

A worker is a group of devices that average their gradients at every step. After `parallel.local_steps` steps, the outer
step of `WorkerSync` is taken, and all workers continue from the outer parameters, each with its own optimizer state.
`worker_checkpoint.py` describes the form on disk.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from jaxdp.optim import UpdateConfig, Updated, apply_update, clip_factor, is_good, unless_skipped
from jaxdp.parallel.buckets import GradientSync
from jaxdp.parallel.devices import AXIS, Topology
from jaxdp.parallel.layout import PER_DEVICE, abstract_true, layout_like, params_layout, replicated_layout
from jaxdp.parallel.spmd import fixed_settings
from jaxdp.parallel.strategies.strategy import TOTALS_BYTES, SyncStrategy, Totals, advance
from jaxdp.parallel.wire_bytes import all_reduce_bytes, num_bytes
from jaxdp.parallel.worker_checkpoint import convert_workers, mean_of_workers, sync_on_disk
from jaxdp.parallel.worker_sync import RESIDUALS, WorkerSync
from jaxdp.parallel.workers import Workers
from jaxdp.state import TrainState
from jaxdp.typing import PyTree

_MEANS_BYTES = 16
"""Bytes of the metrics that all workers average in every step."""


@dataclasses.dataclass(frozen=True)
class Local(SyncStrategy):
    """Parameters and optimizer state of each worker on its own devices, outer parameters replicated.

    Attributes:
        workers: Groups of devices.
        sync: Synchronisation of the workers.
        buckets: Buffers in which the gradients of a group travel.
    """

    workers: Workers
    sync: WorkerSync
    buckets: GradientSync = dataclasses.field(default_factory=GradientSync)

    def describe(self) -> str:
        """Describes the workers and their synchronisation; see `SyncStrategy.describe`."""
        return f"{self.workers.describe()}, {self.sync.describe()}"

    def init(self, params: PyTree) -> PyTree:
        """Returns the state of the synchronisation; see `SyncStrategy.init`."""
        return self.sync.init(params)

    def layout(self, shapes: TrainState) -> TrainState:
        """Returns the layout: a value per device of what a worker trains; see `SyncStrategy.layout`."""
        replicated = replicated_layout(shapes)
        own = {name: part for name, part in shapes.sync.items() if name in ("token_weights", RESIDUALS)}
        params, opt_state, own = jax.tree.map(lambda _: PER_DEVICE, (shapes.params, shapes.opt_state, own))
        return replicated.replace(params=params, opt_state=opt_state, sync=replicated.sync | own)

    def update(
        self, state: TrainState, gradients: PyTree, totals: Totals, update: UpdateConfig
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Updates the worker of this device, and synchronises it if it is time; see `SyncStrategy.update`."""
        group_size, groups = self.workers.group_size, self.workers.groups
        buckets = dataclasses.replace(self.buckets, groups=groups)
        buffers = buckets.reduce(gradients, group_size)
        loss_sum, weight, tokens = jax.lax.pmean(totals, AXIS, axis_index_groups=groups)
        divisor = jnp.where(weight > 0, weight, 1.0)  # a worker without tokens has no gradient either
        norm = optax.tree.norm(buffers) / divisor
        means = jax.lax.pmean(jnp.stack([loss_sum, weight, tokens, norm**2]), AXIS)
        metrics = {"loss": means[0] / means[1], "tokens": means[2] * self.num_devices, "grad_norm": jnp.sqrt(means[3])}
        metrics["learning_rate"] = update.schedule(state.step - state.skipped)
        # Decided from means over all workers: if one of them has a bad update, all skip.
        good = is_good(update, state.opt_state, state.skipped_in_a_row, metrics["loss"], metrics["grad_norm"])
        factor = clip_factor(norm, update.clip_norm) / divisor

        def apply(old: Updated) -> Updated:
            sums = buckets.unpack(buffers, old.params, group_size)
            own = jax.tree.map(lambda leaf: leaf * factor, sums)
            return apply_update(dataclasses.replace(update, ema_decay=0.0), old, own, metrics["loss"])

        before = Updated(state.params, state.opt_state, None, update.no_norms(state.params))
        updated = unless_skipped(update, state.step, good, apply, before)
        # Of the workers, whose parameters differ, the mean of the squares.
        norms = None if updated.norms is None else jax.lax.pmean(updated.norms, AXIS)
        weights = state.sync["token_weights"] + jnp.where(good, weight, 0.0)
        synced = (updated.params, state.ema, state.sync | {"token_weights": weights})
        params, ema, sync = self.sync(state.step + 1, update.ema_decay, synced)
        return advance(state, Updated(params, updated.opt_state, ema, norms), good, metrics, sync=sync)

    def bytes_on_wire(self, shapes: PyTree, num_microbatches: int, dtype: str) -> float:
        """Returns the bytes of a worker's gradients and its part of a synchronisation; see `SyncStrategy.bytes_on_wire`."""
        of_group = all_reduce_bytes(num_bytes(shapes) + TOTALS_BYTES, self.workers.group_size)
        of_all = all_reduce_bytes(_MEANS_BYTES, self.num_devices)
        return of_group + of_all + self.sync.bytes_on_wire(shapes) / self.sync.fragments.period

    def eval_params(self, state: TrainState) -> PyTree:
        """Returns the moving average of the outer parameters; without one the average of the workers."""
        if state.ema is not None:
            return state.ema
        with fixed_settings():
            return _averaging(self.sync, state.step.sharding)(state.params, state.sync)

    def eval_layout(self, layout: TrainState) -> PyTree:
        """Returns the layout of `eval_params`: replicated."""
        return replicated_layout(layout.params)

    def portable_shapes(self, shapes: TrainState, layout: TrainState, topology: Topology) -> TrainState:
        """Returns shapes and shardings of the form on disk: averages, and in `sync` the states of the workers."""
        # The averages are sharded, so that a save needs no room for them on every device.
        shards = params_layout(shapes.params, self.num_devices)
        averages = layout.replace(params=shards, opt_state=layout_like(shapes.opt_state, shapes.params, shards))
        portable = abstract_true(shapes, averages, topology)
        convert = functools.partial(self.workers.abstract, topology=topology)
        return portable.replace(sync=sync_on_disk(portable.sync, shapes, convert))

    def to_portable(self, state: TrainState, layout: TrainState) -> TrainState:
        """Converts a state to its form on disk; see `SyncStrategy.to_portable`."""
        return state.replace(
            params=self.sync.average(state.params, state.sync),
            opt_state=mean_of_workers(state.opt_state),
            sync=sync_on_disk(state.sync, state, self.workers.from_devices),
        )

    def from_portable(self, saved: TrainState, layout: TrainState) -> TrainState:
        """Converts the form on disk to a state on these devices; see `SyncStrategy.from_portable`."""
        sync = convert_workers(saved.sync, saved.sync, self.workers.to_devices)
        return saved.replace(**sync.pop("worker_states"), sync=sync)

    def initial_sync(self, saved: TrainState, layout: TrainState) -> PyTree:
        """Returns workers that all start from the saved averages; see `SyncStrategy.initial_sync`."""
        state = saved.replace(sync=self.init(saved.params))
        return sync_on_disk(super().initial_sync(saved, layout), state, self.workers.equal)


@functools.lru_cache(maxsize=1)
def _averaging(sync: WorkerSync, sharding: NamedSharding):
    """Compiles the average of the workers."""
    return jax.jit(sync.average, out_shardings=sharding)
