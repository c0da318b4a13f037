"""Decoupled weight decay: constant or linear over the run, everywhere or only where it agrees with the update."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdp.optim.config import OptimizerConfig
from jaxdp.optim.rules import decay_mask
from jaxdp.typing import PyTree


class DecayState(NamedTuple):
    """State of a weight decay that changes over the run.

    Attributes:
        count: Number of applied updates, `[] int32`.
    """

    count: jax.Array


def decayed_weights(config: OptimizerConfig) -> optax.GradientTransformation:
    """Builds the transformation direction -> direction + decay(n) * params, for the parameters of `decay_mask`.

    With `optim.weight_decay_end` the decay goes linearly from `optim.weight_decay` to it at `total_steps`. With
    `optim.cautious` it applies only to the elements whose parameter has the sign of its direction, or whose direction
    is 0: everywhere else the update moves the parameter away from 0, against the decay.

    Source: Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization; Chen et al. 2025, Cautious Weight Decay,
    algorithm 1.
    """
    end = config.weight_decay if config.weight_decay_end is None else config.weight_decay_end
    if end == config.weight_decay and not config.cautious:
        return optax.add_decayed_weights(config.weight_decay, mask=decay_mask)

    def init(params: PyTree) -> DecayState:
        del params
        return DecayState(jnp.zeros([], jnp.int32))

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, DecayState]:
        assert params is not None, "weight decay needs the parameters"
        done = jnp.minimum(state.count / config.total_steps, 1.0)
        decay = config.weight_decay + (end - config.weight_decay) * done

        def decayed(direction: jax.Array, param: jax.Array, decays: bool) -> jax.Array:
            if not decays:
                return direction
            shrink = decay * param
            if config.cautious:
                shrink = jnp.where(direction * param >= 0, shrink, 0.0)
            return direction + shrink.astype(direction.dtype)

        updates = jax.tree.map(decayed, updates, params, decay_mask(params))
        return updates, DecayState(state.count + 1)

    return optax.GradientTransformation(init, update)
