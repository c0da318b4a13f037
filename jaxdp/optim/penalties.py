"""L1 and L2 penalties on the parameters, as a part of what is minimised.

Unlike decoupled weight decay they go through the optimizer: the gradient that it
sees, and that is clipped, is that of the whole objective.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdp.errors import UserError
from jaxdp.optim.rules import decay_mask
from jaxdp.typing import PyTree


def penalty(params: PyTree, l1: float, l2: float) -> jax.Array:
    """l1 x sum |p| + l2 / 2 x sum p^2 over the parameters that also decay: `[] float32`.

    Source: Tibshirani 1996 (the lasso); Hoerl and Kennard 1970 (ridge regression).
    """
    total = jnp.zeros((), jnp.float32)
    for leaf, decays in zip(jax.tree.leaves(params), jax.tree.leaves(decay_mask(params)), strict=True):
        if decays and l1:
            total += l1 * jnp.sum(jnp.abs(leaf))
        if decays and l2:
            total += 0.5 * l2 * jnp.sum(jnp.square(leaf))
    return total


def penalized(loss: Callable, l1: float, l2: float) -> Callable:
    """A loss with the penalties of `optim.l1` and `optim.l2` added.

    The step divides sums by the sum of weights, so the penalty is added once for
    each unit of weight: the mean then holds it once, exactly, however the rows fall
    on microbatches and devices, and one with nothing but padding adds nothing.

    Args:
        loss: (params, ...) -> sums, a named tuple with `loss` and `weight`.
        l1: 0: off.
        l2: 0: off.

    Returns:
        `loss` itself if both are off.

    Raises:
        UserError: one of them is not a number of 0 or more.
    """
    for key, value in (("l1", l1), ("l2", l2)):
        if not 0 <= value < float("inf"):
            raise UserError(f"optim.{key} is {value}; expected a finite number 0 or above.")
    if not l1 and not l2:
        return loss

    def with_penalty(params: PyTree, *arguments):
        sums = loss(params, *arguments)
        return sums._replace(loss=sums.loss + sums.weight * penalty(params, l1, l2))

    return with_penalty
