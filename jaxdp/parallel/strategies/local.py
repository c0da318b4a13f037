"""Strategy `local`: workers train by themselves for some steps, then their parameters are averaged (local SGD, DiLoCo).

A worker is a group of devices that average their gradients at every step. After `parallel.local_steps` steps, the
differences of the workers from the outer parameters are averaged, weighted by tokens, and an outer optimizer takes the
average as its gradient. All workers continue from the outer parameters, each with its own optimizer state. Fragments
of the parameters can take turns; see `Fragments`.

On disk, `params` and `opt_state` are averages over the workers, from which every strategy and every number of workers
can continue. `sync` has the state of each worker, from which the same number of workers continues bitwise.

Source: Stich 2018, Local SGD; Douillard et al. 2023, DiLoCo. Differs: differences are weighted by tokens.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding

from jaxdp.optim import UpdateConfig, Updated, apply_update, clip_factor, is_good, unless_skipped, update_ema
from jaxdp.parallel.buckets import GradientSync
from jaxdp.parallel.devices import AXIS, Topology
from jaxdp.parallel.fragments import Fragments
from jaxdp.parallel.layout import PER_DEVICE, abstract_true, layout_like, params_layout, replicated_layout
from jaxdp.parallel.outer_step import OuterOptimizer
from jaxdp.parallel.spmd import fixed_settings
from jaxdp.parallel.strategies.strategy import SyncStrategy, Totals, advance
from jaxdp.parallel.workers import Workers
from jaxdp.state import TrainState
from jaxdp.typing import PyTree

LOCAL_STEPS = 50
"""Steps between synchronisations if `parallel.local_steps` is unset."""

OUTER_LEARNING_RATE, OUTER_MOMENTUM = 0.7, 0.9
"""Settings of the outer optimizer if unset: those of the DiLoCo paper, section 3."""


@dataclasses.dataclass(frozen=True)
class Local(SyncStrategy):
    """Parameters and optimizer state of each worker on its own devices, outer parameters replicated.

    Attributes:
        workers: Groups of devices.
        fragments: Fragments that synchronise in turn, and the steps at which they do.
        outer: Optimizer that takes the averaged differences as gradients.
        buckets: Buffers in which gradients and differences travel.
    """

    workers: Workers
    fragments: Fragments
    outer: OuterOptimizer
    buckets: GradientSync = dataclasses.field(default_factory=GradientSync)

    def init(self, params: PyTree) -> PyTree:
        """Returns outer parameters, their momentum and the token weights of this period; see `SyncStrategy.init`."""
        momentum = self.outer.init(params)
        return {
            "outer_params": params,
            "token_weights": jnp.zeros(self.fragments.count, jnp.float32),
            **({} if momentum is None else {"outer_momentum": momentum}),
        }

    def layout(self, shapes: TrainState) -> TrainState:
        """Returns the layout: a value per device of what a worker trains; see `SyncStrategy.layout`."""
        replicated = replicated_layout(shapes)
        params, opt_state = jax.tree.map(lambda _: PER_DEVICE, (shapes.params, shapes.opt_state))
        return replicated.replace(
            params=params, opt_state=opt_state, sync=replicated.sync | {"token_weights": PER_DEVICE}
        )

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

        updated = unless_skipped(update.skip_by, good, apply, Updated(state.params, state.opt_state, None))
        weights = state.sync["token_weights"] + jnp.where(good, weight, 0.0)
        params, ema, sync = self._synchronised(
            state.step + 1, update.ema_decay, (updated.params, state.ema, state.sync | {"token_weights": weights})
        )
        return advance(state, Updated(params, updated.opt_state, ema), good, metrics, sync=sync)

    def _synchronised(self, step: jax.Array, ema_decay: float, old: tuple) -> tuple:
        """Synchronises the fragment that is due after this step, if any: a function of the step, equal on all devices."""
        synchronise = [
            functools.partial(self._synchronise, fragment, ema_decay) for fragment in range(self.fragments.count)
        ]
        return jax.lax.switch(self.fragments.due(step), [lambda unchanged: unchanged, *synchronise], old)

    def _synchronise(self, fragment: int, ema_decay: float, old: tuple) -> tuple:
        """Takes the outer step of a fragment, from which all workers continue."""
        params, ema, sync = old
        pick = functools.partial(self.fragments.pick, fragment=fragment)
        put = functools.partial(self.fragments.put, fragment=fragment)
        weights = sync["token_weights"]
        share = _shares(weights[fragment], jax.lax.pmean(weights[fragment], AXIS))
        outer, momentum = pick(sync["outer_params"]), sync.get("outer_momentum")
        weighted = jax.tree.map(lambda outer, own: (outer - own) * share, outer, pick(params))
        buffers = self.buckets.reduce(weighted, self.num_devices)
        difference = self.buckets.unpack(buffers, weighted, self.num_devices)
        outer, changed = self.outer.step(outer, pick(momentum), difference)
        sync = sync | {
            "outer_params": put(sync["outer_params"], new=outer),
            "token_weights": weights.at[fragment].set(0.0),
            **({} if momentum is None else {"outer_momentum": put(momentum, new=changed)}),
        }
        if ema is not None:
            # The decay is per step, and as many steps have passed as a period has.
            ema = put(ema, new=update_ema(pick(ema), outer, ema_decay**self.fragments.period))
        return put(params, new=outer), ema, sync

    def eval_params(self, state: TrainState) -> PyTree:
        """Returns the moving average of the outer parameters; without one the average of the workers."""
        if state.ema is not None:
            return state.ema
        with fixed_settings():
            return _averaging(self, state.step.sharding)(state.params, state.sync)

    def eval_layout(self, layout: TrainState) -> PyTree:
        """Returns the layout of `eval_params`: replicated."""
        return replicated_layout(layout.params)

    def average(self, params: PyTree, sync: PyTree) -> PyTree:
        """Averages the workers, weighted by their tokens of this period; can be traced by JAX.

        Args:
            params: Parameters `[num_devices, ...]`.
            sync: The strategy's own state.
        """
        averages = sync["outer_params"]
        for fragment in range(self.fragments.count):
            pick = functools.partial(self.fragments.pick, fragment=fragment)
            weights = sync["token_weights"][:, fragment]
            outer = pick(averages)
            differences = jax.vmap(
                lambda own, share, outer=outer: jax.tree.map(lambda a, b: (a - b) * share, outer, own)
            )
            weighted = differences(jax.vmap(pick)(params), _shares(weights, weights.mean()))
            new = jax.tree.map(lambda outer, leaf: outer - leaf.mean(axis=0), outer, weighted)
            averages = self.fragments.put(averages, fragment, new)
        return averages

    def portable_shapes(self, shapes: TrainState, layout: TrainState, topology: Topology) -> TrainState:
        """Returns shapes and shardings of the form on disk: averages, and in `sync` the states of the workers."""
        # The averages are sharded, so that a save needs no room for them on every device.
        shards = params_layout(shapes.params, self.num_devices)
        averages = replicated_layout(shapes).replace(
            params=shards, opt_state=layout_like(shapes.opt_state, shapes.params, shards)
        )
        portable = abstract_true(shapes, averages, topology)
        return portable.replace(sync=portable.sync | self.workers.abstract(_of_workers(shapes), topology))

    def to_portable(self, state: TrainState, layout: TrainState) -> TrainState:
        """Converts a state to its form on disk; see `SyncStrategy.to_portable`."""
        return state.replace(
            params=self.average(state.params, state.sync),
            opt_state=jax.tree.map(_mean_or_first, state.opt_state),
            sync=state.sync | self.workers.from_devices(_of_workers(state)),
        )

    def from_portable(self, saved: TrainState, layout: TrainState) -> TrainState:
        """Converts the form on disk to a state on these devices; see `SyncStrategy.from_portable`."""
        sync = dict(saved.sync)
        sync["token_weights"], own = self.workers.to_devices((sync["token_weights"], sync.pop("worker_states")))
        return saved.replace(**own, sync=sync)

    def initial_sync(self, saved: TrainState, layout: TrainState) -> PyTree:
        """Returns workers that all start from the saved averages; see `SyncStrategy.initial_sync`."""
        sync = self.init(saved.params)
        return sync | self.workers.equal(_of_workers(saved.replace(sync=sync)))


def _of_workers(state: TrainState) -> PyTree:
    """Returns what differs between workers, as parts of `sync` on disk."""
    return {
        "worker_states": {"params": state.params, "opt_state": state.opt_state},
        "token_weights": state.sync["token_weights"],
    }


def _shares(weights: jax.Array, mean: jax.Array) -> jax.Array:
    """Returns weights divided by their mean; ones if no worker has seen a token."""
    return jnp.where(mean > 0, weights / jnp.where(mean > 0, mean, 1.0), 1.0)


def _mean_or_first(leaf: jax.Array) -> jax.Array:
    """Averages an optimizer state over the devices; counts and other whole numbers are those of the first."""
    return leaf.mean(axis=0) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf[0]


@functools.lru_cache(maxsize=1)
def _averaging(strategy: Local, sharding: NamedSharding):
    """Compiles the average of the workers."""
    return jax.jit(strategy.average, out_shardings=sharding)
