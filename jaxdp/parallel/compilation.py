"""Compilation of lowered programs in threads, so that the programs of a run compile at the same time.

Functions are traced and lowered in the caller's thread, whose JAX settings count. XLA releases the interpreter while it
compiles, and keeps about one core busy: the five programs of `configs/speedrun_cpu.py` take 4.2 s one after another.

On GPUs a program compiles before the caller continues: XLA chooses kernels by timing them on the device, which other
programs would disturb, and another thread must not start work there during a first execution (`first_execution.py`).
"""

import concurrent.futures
import contextlib
import time
from collections.abc import Iterator

import jax

TIMING_PLATFORMS = frozenset({"gpu"})
"""Platforms whose compiler runs kernels on the device."""

_THREADS = concurrent.futures.ThreadPoolExecutor(4, "compilation")


class Compilation:
    """Compilation of one lowered program; it has started when the object is made."""

    def __init__(self, lowered: jax.stages.Lowered, platform: str):
        """Starts the compilation, and on GPUs waits for its end.

        Args:
            lowered: The lowered program.
            platform: Platform of the devices.
        """

        def timed() -> tuple[jax.stages.Compiled, float]:
            start = time.perf_counter()
            with fixed_settings():
                compiled = lowered.compile()
            return compiled, time.perf_counter() - start

        self._result = _THREADS.submit(timed)
        if platform in TIMING_PLATFORMS:
            concurrent.futures.wait([self._result])

    def wait(self) -> jax.stages.Compiled:
        """Returns the compiled program; raises the error of the compiler."""
        return self._result.result()[0]

    @property
    def secs(self) -> float:
        """Duration of the compilation, for which this waits."""
        return self._result.result()[1]


@contextlib.contextmanager
def fixed_settings() -> Iterator[None]:
    """Sets the JAX settings under which jaxdp traces programs, independent of the environment and the caller.

    Otherwise a seed would give other numbers under `JAX_DEFAULT_PRNG_IMPL`, and programs would not trace
    under `JAX_ENABLE_X64`.
    """
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.default_prng_impl("threefry2x32"),
        jax.threefry_partitionable(True),
    ):
        yield
