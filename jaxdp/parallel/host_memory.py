"""How the C library hands memory to XLA's CPU backend, which asks for all of its temporary buffers at every step."""

import ctypes

_MALLOPT = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1)}
"""Name -> (number in malloc.h, value): one heap that never shrinks, instead of a new mapping for each large buffer."""


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
