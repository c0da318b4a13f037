"""Train state: the arrays that a checkpoint holds."""

import flax.struct
import jax
import jax.numpy as jnp

from jaxdp.typing import PyTree


class TrainState(flax.struct.PyTreeNode):
    """Train state: arrays only. `parallel.layout` gives the layout of each leaf on the devices.

    Attributes:
        step: Number of batches consumed, `[] int32`. The state of step N results from batches
            0 to N - 1 and is saved as checkpoint N; the next batch is batch N.
        params: Model parameters, float32.
        opt_state: Optimizer state.
        ema: Moving average of `params`; None if EMA is off.
        sync: State of the synchronisation strategy; () for pmean.
        skipped: Number of updates skipped because they were not finite or a loss spike, `[] int32`.
        skipped_in_a_row: Number of consecutive skipped updates up to this step, `[] int32`.
    """

    step: jax.Array
    params: PyTree
    opt_state: PyTree
    ema: PyTree
    sync: PyTree
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def initial_state(params: PyTree, optimizer, *, with_ema: bool, sync: PyTree = ()) -> TrainState:
    """Builds the state of step 0 around initial parameters; can be traced by JAX."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        opt_state=optimizer.init(params),
        ema=params if with_ema else None,
        sync=sync,
        skipped=zero,
        skipped_in_a_row=zero,
    )
