"""Synchronisation of the workers of local training: the outer step of a fragment, from which all workers continue.

The differences of the workers from the outer parameters are averaged, weighted by tokens, and an outer optimizer takes
the average as its gradient. Differences can be quantised: what rounding removes is added to the differences of the next
synchronisation of the fragment (error feedback), so no part of them is lost, only delayed.

Source: Stich 2018, Local SGD; Douillard et al. 2023, DiLoCo. Differs: differences are weighted by tokens.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxdp.optim import update_ema
from jaxdp.parallel.devices import AXIS
from jaxdp.parallel.fragments import Fragments
from jaxdp.parallel.outer_step import OuterOptimizer
from jaxdp.parallel.wire_bytes import all_reduce_bytes
from jaxdp.parallel.worker_mean import WorkerMean
from jaxdp.typing import PyTree

RESIDUALS = "difference_residuals"
"""Name of the residuals in `sync`: a tuple with the `Residuals` of each fragment; missing if nothing is quantised."""

WEIGHT_BYTES = 4
"""Bytes of the token weight that a synchronisation averages."""


@dataclasses.dataclass(frozen=True)
class WorkerSync:
    """Synchronisation of the workers by an outer optimizer, in fragments.

    Attributes:
        fragments: Fragments that synchronise in turn, and the steps at which they do.
        outer: Optimizer that takes the averaged differences as gradients.
        mean: Mean over the workers.
    """

    fragments: Fragments
    outer: OuterOptimizer
    mean: WorkerMean

    def describe(self) -> str:
        """Describes how often, in what and with which outer step the workers synchronise."""
        period, count = self.fragments.period, self.fragments.count
        often = f"synchronised every {f'{period} steps' if period > 1 else 'step'}"
        in_turn = f" in {count} fragments" if count > 1 else ""
        return (
            f"{often}{in_turn} in {self.mean.dtype}, outer learning rate {self.outer.learning_rate:g}, "
            f"momentum {self.outer.momentum:g}"
        )

    def init(self, params: PyTree) -> dict[str, Any]:
        """Returns outer parameters and their momentum, which are replicated, and token weights and residuals of a device."""
        momentum = self.outer.init(params)
        residuals = [self.mean.residuals(self._pick(params, fragment)) for fragment in range(self.fragments.count)]
        return {
            "outer_params": params,
            "token_weights": jnp.zeros(self.fragments.count, jnp.float32),
            **({} if momentum is None else {"outer_momentum": momentum}),
            **({RESIDUALS: tuple(residuals)} if residuals[0] else {}),
        }

    def __call__(self, step: jax.Array, ema_decay: float, old: tuple) -> tuple:
        """Synchronises the fragment that is due after this step, if any; for use inside the step of one device.

        Which one is a function of the step, so all devices take the same branch.

        Args:
            step: Steps taken, `[] int32`.
            ema_decay: Decay of the moving average in one step.
            old: Parameters of this device, moving average (None: there is none), and `sync`.

        Returns:
            What replaces `old`.
        """
        branches = [
            functools.partial(self._synchronise, fragment, ema_decay) for fragment in range(self.fragments.count)
        ]
        return jax.lax.switch(self.fragments.due(step), [lambda unchanged: unchanged, *branches], old)

    def _synchronise(self, fragment: int, ema_decay: float, old: tuple) -> tuple:
        params, ema, sync = old
        pick = functools.partial(self._pick, fragment=fragment)
        put = functools.partial(self.fragments.put, fragment=fragment)
        weights = sync["token_weights"]
        share = _shares(weights[fragment], jax.lax.pmean(weights[fragment], AXIS))
        outer, momentum = pick(sync["outer_params"]), sync.get("outer_momentum")
        weighted = jax.tree.map(lambda outer, own: (outer - own) * share, outer, pick(params))
        residuals = sync.get(RESIDUALS)
        difference, new = self.mean(weighted, residuals and residuals[fragment])
        outer, changed = self.outer.step(outer, pick(momentum), difference)
        sync = sync | {
            "outer_params": put(sync["outer_params"], new=outer),
            "token_weights": weights.at[fragment].set(0.0),
            **({} if momentum is None else {"outer_momentum": put(momentum, new=changed)}),
            **({RESIDUALS: (*residuals[:fragment], new, *residuals[fragment + 1 :])} if residuals else {}),
        }
        if ema is not None:
            # The decay is per step, and as many steps have passed as a period has.
            ema = put(ema, new=update_ema(pick(ema), outer, ema_decay**self.fragments.period))
        return put(params, new=outer), ema, sync

    def average(self, params: PyTree, sync: PyTree) -> PyTree:
        """Averages the workers, weighted by their tokens of this period; can be traced by JAX.

        Args:
            params: Parameters `[num_devices, ...]`.
            sync: The strategy's own state on the devices.
        """
        averages = sync["outer_params"]
        for fragment in range(self.fragments.count):
            pick = functools.partial(self._pick, fragment=fragment)
            weights = sync["token_weights"][:, fragment]
            outer = pick(averages)
            differences = jax.vmap(
                lambda own, share, outer=outer: jax.tree.map(lambda a, b: (a - b) * share, outer, own)
            )
            weighted = differences(jax.vmap(pick)(params), _shares(weights, weights.mean()))
            new = jax.tree.map(lambda outer, leaf: outer - leaf.mean(axis=0), outer, weighted)
            averages = self.fragments.put(averages, fragment, new)
        return averages

    def bytes_on_wire(self, shapes: PyTree) -> float:
        """Returns the bytes that a device sends to synchronise all parameters once.

        Args:
            shapes: True shapes of the parameters.
        """
        weights = all_reduce_bytes(WEIGHT_BYTES * self.fragments.count, self.mean.workers.num_devices)
        picked = jax.eval_shape(
            lambda params: [self._pick(params, fragment) for fragment in range(self.fragments.count)], shapes
        )
        return weights + sum(map(self.mean.bytes_on_wire, picked))

    def _pick(self, tree: PyTree, fragment: int) -> dict[str, jax.Array]:
        return self.fragments.pick(tree, fragment)


def _shares(weights: jax.Array, mean: jax.Array) -> jax.Array:
    """Returns weights divided by their mean; ones if no worker has seen a token."""
    return jnp.where(mean > 0, weights / jnp.where(mean > 0, mean, 1.0), 1.0)
