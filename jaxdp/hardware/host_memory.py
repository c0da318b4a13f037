"""Host memory of a process: its limits, and malloc options that keep XLA:CPU from returning buffers to the kernel."""

import contextlib
import ctypes
import os
import resource

from jaxdp.errors import UserError

_MALLOPT = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1)}
"""Name -> (number in malloc.h, value): one heap that never shrinks, instead of a new mapping for each large buffer."""

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

MIN_ADDRESS_SPACE = 2**30
"""Bytes of address space below which JAX aborts the process at import or thread start; a run of one small layer needs 0.9 GB."""


def host_memory_bytes() -> int:
    """Returns the bytes of memory that this process may use: the smaller of machine and container memory."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:  # no such file, or "max"
            limits.append(int(file.read()))
    return min(limits)


def keep_freed_memory() -> bool:
    """Configures glibc malloc to keep freed memory for the next step instead of returning it to the kernel.

    By default glibc returns large buffers at once, and each page costs a page fault when it
    is requested again: 266,000 faults, a quarter of the processor time, in a step of
    `configs/translate_tsv.py` on a CPU; none with this setting. In exchange the process never
    shrinks.

    Must be the first call in a process, since each thread that allocates earlier may get its own heap.

    Returns:
        Whether the C library supports it; any other than glibc is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(number, value) == 1 for number, value in _MALLOPT.values()])


def release_freed_memory() -> None:
    """Returns memory that is free to the kernel, also what `keep_freed_memory` keeps; no effect with another library than glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def check_address_space() -> None:
    """Checks that the address space suffices for JAX, which would abort the process and cannot be caught.

    Raises:
        UserError: The address space limit is too low.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_SPACE:
        raise UserError(
            f"the address space is limited to {limit // 2**20} MiB (ulimit -v), but JAX needs {MIN_ADDRESS_SPACE // 2**20} MiB "
            "or more; raise the limit with `ulimit -v unlimited`."
        )
