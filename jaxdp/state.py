"""The train state, which is exactly what a checkpoint holds, and what hooks are told."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxdp.data.prefetch import QueueState
from jaxdp.typing import PyTree


@flax.struct.dataclass
class TrainState:
    """Arrays only; replicated on every device, without a device axis.

    Attributes:
        step: [] int32, batches consumed. A state of step N comes from batches
            0 .. N-1 and is saved as checkpoint N; the next batch is batch(N).
        params: the model's parameters, float32.
        opt_state: the optimizer's state.
        ema: moving average of `params`, or None when it is off.
        sync: state of the synchronisation strategy; () for pmean.
        skipped: [] int32, updates left out because they were not finite, or a spike.
        skipped_in_a_row: [] int32, how many of them came last.
    """

    step: jax.Array
    params: PyTree
    opt_state: PyTree
    ema: PyTree
    sync: PyTree
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def initial_state(params: PyTree, optimizer, *, with_ema: bool) -> TrainState:
    """State 0 around fresh parameters; traceable."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        opt_state=optimizer.init(params),
        ema=params if with_ema else None,
        sync=(),
        skipped=zero,
        skipped_in_a_row=zero,
    )


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """One finished step as the hooks see it, read after the next one was dispatched.

    Attributes:
        step: updates completed, this one included.
        metrics: the train step's metrics as host numbers (see `jaxdp.step`).
        step_secs: time since the step before was finished, without what hooks
            did with the state in between.
        queue: how many batches were ready when the loop came for this step's, and how
            much of the time it waited.
    """

    step: int
    metrics: dict[str, Any]
    step_secs: float
    queue: QueueState
