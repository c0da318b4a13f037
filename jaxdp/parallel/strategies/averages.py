"""Update of a replicated state from averaged gradients, for strategies in which every device applies the same update."""

from collections.abc import Callable

import jax
import optax

from jaxdp.optim import UpdateConfig, Updated, apply_update, clip_factor, is_good, unless_skipped
from jaxdp.state import TrainState
from jaxdp.typing import PyTree


def apply_averages(
    state: TrainState,
    update: UpdateConfig,
    buffers: PyTree,
    weight: jax.Array,
    loss: jax.Array,
    unpack: Callable[[PyTree, PyTree], PyTree],
    is_ready: jax.Array | bool = True,
) -> tuple[Updated, jax.Array, jax.Array]:
    """Clips and applies averaged gradients, unless the update is skipped; for use inside the step of one device.

    Args:
        state: State, equal on all devices.
        update: Settings of the update.
        buffers: Averages of the gradient sums over the devices, as they were communicated.
        weight: Average of the weights over the devices, which divides the gradients, `[] float32`.
        loss: Mean loss of the batch of the gradients, `[] float32`.
        unpack: Function (buffers, parameters) -> averages as a tree like the parameters.
        is_ready: Whether there is a gradient to apply, `[] bool`.

    Returns:
        The updated part of the state, whether the update was applied, and the norm of the mean gradient.
    """
    grad_norm = optax.tree.norm(buffers) / weight
    good = is_good(update, state.opt_state, state.skipped_in_a_row, loss, grad_norm) & is_ready
    # A single factor divides the gradient sums by the weight and clips the mean.
    factor = clip_factor(grad_norm, update.clip_norm) / weight

    def apply(old: Updated) -> Updated:
        means = jax.tree.map(lambda leaf: leaf * factor, unpack(buffers, old.params))
        return apply_update(update, old, means, loss)

    old = Updated(state.params, state.opt_state, state.ema, update.no_norms(state.params))
    return unless_skipped(update, state.step, good, apply, old), good, grad_norm
