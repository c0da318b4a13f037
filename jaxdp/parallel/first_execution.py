"""First executions of GPU programs: alone on the devices, so that no transfer spoils a CUDA graph capture in them.

At the first execution of a program XLA loads its cuDNN attention, and cuDNN captures a CUDA graph on the stream of the
computations. A host-to-device transfer that another thread starts meanwhile waits for this stream, which makes it a part
of the capture: "capturing stream has unjoined work". After that every CUDA call of the process fails.

Measured on one H100 with JAX 0.11.2 and cuDNN 9.19: a train step whose batches are placed before it starts runs; the same
step fails at its first execution when a prefetch thread places batches meanwhile, each of four times. The cause is read
from the sources below. Not yet run on a GPU: the remedy of this module.

Source: NVIDIA/cudnn-frontend `Graph::deserialize` and `Graph::warmup`; openxla/xla `CuDnnThunk::Initialize` and
`LocalDeviceState::kComputeSynchronized`.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import numpy as np

from jaxdp.typing import PyTree

PLATFORMS = frozenset({"gpu"})
"""Platforms on which a first execution is alone; on the others nothing here has an effect."""

_DEVICES = threading.Lock()
"""Held by a first execution until its results are there, and by other threads while they start a transfer."""

_in_transfer: list[jax.Array] = []
"""Arrays that may still be on their way to the devices."""


class FirstExecution:
    """First execution of one compiled program.

    Attributes:
        is_pending: Whether the next execution must be alone; False from the start on platforms that do not need it.
    """

    def __init__(self, platform: str):
        self.is_pending = platform in PLATFORMS

    def __call__(self, call: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
        """Executes the program when all transfers have ended, and waits for its results; none starts meanwhile."""
        with _DEVICES:
            jax.block_until_ready((arguments, _still_in_transfer()))
            _in_transfer.clear()
            results = jax.block_until_ready(call(*arguments))
            self.is_pending = False
        return results


@contextlib.contextmanager
def outside_first_executions(platform: str) -> Iterator[None]:
    """Waits until no first execution runs, and lets none start in its body: for work of other threads on the devices."""
    if platform not in PLATFORMS:
        yield
        return
    with _DEVICES:
        yield


def transfer(make: Callable[[], jax.Array], platform: str) -> jax.Array:
    """Starts a transfer to the devices that no first execution overlaps; does not wait for its end.

    Waiting would cost a step: a transfer follows all computations that were dispatched before it.

    Args:
        make: Starts the transfer and returns its array.
        platform: Platform of the devices.
    """
    with outside_first_executions(platform):
        array = make()
        if platform in PLATFORMS:
            _in_transfer[:] = [*_still_in_transfer(), array]
    return array


def read_in_thread(array: jax.Array) -> np.ndarray:
    """Copies an array to the host from a thread other than the one that trains."""
    jax.block_until_ready(array)  # not while the lock is held: the training thread needs it for every step
    with outside_first_executions(next(iter(array.devices())).platform):
        return np.asarray(array)


def _still_in_transfer() -> list[jax.Array]:
    return [array for array in _in_transfer if not array.is_deleted() and not cast(Any, array).is_ready()]
