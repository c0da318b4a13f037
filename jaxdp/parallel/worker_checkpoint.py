"""State of local training in checkpoints: averages over the workers, and the state of each worker.

`params` and `opt_state` are averages over the workers, from which every strategy and every number of workers can continue.
`sync` has the state of each worker, `[num_workers, ...]`, from which the same number of workers continues bitwise. Of
the residuals of quantised differences, those of sent differences are a worker's, and those of sums a device's.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdp.parallel.worker_sync import RESIDUALS
from jaxdp.state import TrainState
from jaxdp.typing import PyTree

PER_WORKER = ("token_weights", "worker_states")
"""Parts of `sync` on disk that have a value for each worker."""


def sync_on_disk(sync: PyTree, state: TrainState, convert: Callable[[PyTree], PyTree]) -> PyTree:
    """Returns `sync` on disk, with the state of each worker.

    Args:
        sync: The strategy's own state of all devices.
        state: State whose values per worker are converted.
        convert: Function to the form `[num_workers, ...]`.
    """
    worker_states = {"params": state.params, "opt_state": state.opt_state}
    return convert_workers(sync, state.sync | {"worker_states": worker_states}, convert)


def convert_workers(sync: PyTree, source: PyTree, convert: Callable[[PyTree], PyTree]) -> PyTree:
    """Returns `sync` with the values per worker of `source`, converted.

    Args:
        sync: The strategy's own state, for everything else.
        source: The same with `worker_states`.
        convert: Function to the form `[num_workers, ...]`, or from it.
    """
    converted = sync | {name: convert(source[name]) for name in PER_WORKER}
    if RESIDUALS in sync:
        pairs = zip(sync[RESIDUALS], source[RESIDUALS], strict=True)
        converted[RESIDUALS] = tuple(residuals._replace(sent=convert(of.sent)) for residuals, of in pairs)
    return converted


def mean_of_workers(opt_state: PyTree) -> PyTree:
    """Averages `[num_devices, ...]` optimizer states; counts and other whole numbers are those of the first device."""
    return jax.tree.map(
        lambda leaf: leaf.mean(axis=0) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf[0], opt_state
    )
