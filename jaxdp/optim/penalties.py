"""L1 and L2 penalties on the parameters, added to the loss.

In contrast to decoupled weight decay, penalties contribute to the gradient that is
clipped and passed to the optimizer.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdp.errors import UserError
from jaxdp.optim.rules import decay_mask
from jaxdp.typing import PyTree


def penalty(params: PyTree, l1: float, l2: float) -> jax.Array:
    """Computes l1 * sum |p| + l2 / 2 * sum p^2 over the parameters of `decay_mask`, `[] float32`.

    Source: Tibshirani 1996 (the lasso); Hoerl and Kennard 1970 (ridge regression).
    """
    total = jnp.zeros((), jnp.float32)
    for leaf, decays in zip(jax.tree.leaves(params), jax.tree.leaves(decay_mask(params)), strict=True):
        if decays and l1:
            total += l1 * jnp.sum(jnp.abs(leaf))
        if decays and l2:
            total += 0.5 * l2 * jnp.sum(jnp.square(leaf))
    return total


def penalized(
    loss: Callable, l1: float, l2: float, whole: Callable[[PyTree], PyTree] = lambda params: params
) -> Callable:
    """Adds the penalties of `optim.l1` and `optim.l2` to a loss.

    The train step divides the sum of losses by the sum of weights, so the penalty is
    multiplied by the weight of the batch. The mean then contains it exactly once for any
    distribution of the examples over microbatches and devices.

    Args:
        loss: Function (params, ...) -> named tuple of sums with `loss` and `weight`.
        l1: Coefficient of the L1 penalty; 0: off.
        l2: Coefficient of the L2 penalty; 0: off.
        whole: Gathers sharded parameters; by default they are whole.

    Returns:
        Loss with the penalties; `loss` itself if both are off.

    Raises:
        UserError: A coefficient is negative or not finite.
    """
    for key, value in (("l1", l1), ("l2", l2)):
        if not 0 <= value < float("inf"):
            raise UserError(f"optim.{key} is {value}; expected a finite number 0 or above.")
    if not l1 and not l2:
        return loss

    def with_penalty(params: PyTree, *arguments):
        sums = loss(params, *arguments)
        return sums._replace(loss=sums.loss + sums.weight * penalty(whole(params), l1, l2))

    return with_penalty
