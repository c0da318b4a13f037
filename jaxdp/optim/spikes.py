"""Loss spike detection: compares each loss with a running mean of the previous losses.

The mean is part of the optimizer state, as in Optax's own transformations that depend on
the loss. It is therefore saved with checkpoints, equal on all devices, and unaffected by
skipped updates.
"""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from jaxdp.typing import PyTree

SPIKE_MEMORY = 50
"""Time constant of the running mean in updates: the newest loss has the weight 1 / SPIKE_MEMORY."""

SPIKE_WARMUP = 20
"""Number of losses before detection starts, because the first losses fall too quickly."""


class LossMean(NamedTuple):
    """State of `track_loss`."""

    loss_mean: jax.Array  # [] float32, running mean over applied updates
    loss_count: jax.Array  # [] int32, number of applied updates


def track_loss() -> optax.GradientTransformationExtraArgs:
    """Builds a transformation that averages the losses passed to `update` as `value`, and keeps updates unchanged.

    The mean is arithmetic over the first `SPIKE_MEMORY` losses, then exponential.
    """

    def init(params: PyTree) -> LossMean:
        return LossMean(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: LossMean, params: PyTree = None, *, value: jax.Array, **_):
        count = state.loss_count + 1
        weight = 1.0 / jnp.minimum(count, SPIKE_MEMORY).astype(jnp.float32)
        mean = state.loss_mean + weight * (value - state.loss_mean)
        return updates, LossMean(mean, count)

    # Type checkers see the constructor of the base class, whose `update` takes no extra arguments.
    return optax.GradientTransformationExtraArgs(init, cast(Any, update))


def is_spike(opt_state: PyTree, loss: jax.Array, factor: float) -> jax.Array:
    """Returns whether a loss exceeds `factor` times the running mean of `track_loss`, `[] bool`.

    Source: Chowdhery et al. 2022, PaLM, section 5.1, which restarts before a spike and
    skips the batches around it. Differs: spikes are detected by a factor, and their
    updates are skipped before they affect the parameters.
    """
    mean, count = (optax.tree.get(opt_state, name) for name in LossMean._fields)
    return (count >= SPIKE_WARMUP) & (loss > factor * mean)
