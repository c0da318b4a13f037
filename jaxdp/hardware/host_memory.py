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
"""Bytes of address space below which JAX aborts the process, at its import or when it starts threads; a run of one small layer needs 0.9 GB."""


def host_memory_bytes() -> int:
    """Returns the memory that this process may use: that of the machine, or of its container where that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:  # no such file, or "max"
            limits.append(int(file.read()))
    return min(limits)


def keep_freed_memory() -> bool:
    """Lets freed memory stay with the process, to be used again by the next step.

    The C library of Linux returns large buffers to the kernel at once, and each page that
    it asks for again costs a page fault: 266,000 of them, a quarter of the processor time,
    in a step of `configs/translate_tsv.py`; with this none. The price is that the process
    never becomes smaller than it once was.

    The first thing in a process: each thread that asks for memory before may have got a heap of its own.

    Returns:
        Whether the C library can be told so; another than glibc is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(number, value) == 1 for number, value in _MALLOPT.values()])


def check_address_space() -> None:
    """Refuses to start JAX where it would abort the process, which Python cannot catch.

    Raises:
        UserError: The limit of the address space is too low.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_SPACE:
        raise UserError(
            f"the address space is limited to {limit // 2**20} MiB (ulimit -v), but JAX needs {MIN_ADDRESS_SPACE // 2**20} MiB "
            "or more; raise the limit with `ulimit -v unlimited`."
        )
