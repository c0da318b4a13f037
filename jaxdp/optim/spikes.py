"""Which losses are spikes: far above the running mean of the losses before.

The mean is kept in the optimizer's state, as Optax's own rules that watch the
loss do: it is saved and restored with it, equal on all devices, and a skipped
update, whose loss must not raise it, leaves it untouched like all else.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdp.typing import PyTree

SPIKE_MEMORY = 50
"""Updates over which the mean forgets: its weight of the newest loss is 1 / SPIKE_MEMORY."""

SPIKE_WARMUP = 20
"""Losses that must have been seen before one can be a spike: the first ones fall too quickly."""


class LossMean(NamedTuple):
    """State of `track_loss`."""

    loss_mean: jax.Array  # [] float32, of the updates that were applied
    loss_count: jax.Array  # [] int32, how many there were


def track_loss() -> optax.GradientTransformationExtraArgs:
    """Leaves updates as they are and averages the losses, given to `update` as `value`.

    The plain mean of the first SPIKE_MEMORY losses, then an exponential one.
    """

    def init(params: PyTree) -> LossMean:
        return LossMean(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: LossMean, params: PyTree = None, *, value: jax.Array, **_):
        count = state.loss_count + 1
        weight = 1.0 / jnp.minimum(count, SPIKE_MEMORY).astype(jnp.float32)
        mean = state.loss_mean + weight * (value - state.loss_mean)
        return updates, LossMean(mean, count)

    return optax.GradientTransformationExtraArgs(init, update)


def is_spike(opt_state: PyTree, loss: jax.Array, factor: float) -> jax.Array:
    """Whether a loss is more than `factor` times the mean in the state of `track_loss`, [] bool.

    Source: Chowdhery et al. 2022, PaLM, section 5.1, which restarts before a
    spike and skips the batches around it. Departs: a spike is told by a factor,
    and its update is skipped before it does harm.
    """
    mean, count = (optax.tree.get(opt_state, name) for name in LossMean._fields)
    return (count >= SPIKE_WARMUP) & (loss > factor * mean)
