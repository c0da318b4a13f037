"""File lock between processes (flock), released by the kernel when its holder ends."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_MAX_HOLDER_BYTES = 4096
"""Longest description of a holder that is read; ours are about 100 bytes."""

_MAX_ATTEMPTS = 100
"""Number of times a lock file is opened again after it was replaced before it could be locked."""


@contextlib.contextmanager
def exclusive(path: Path, on_busy: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Holds a lock file for this process.

    The kernel releases a flock when its holder ends in any way, so a leftover lock
    file is no obstacle. Network file systems that share flock between hosts protect
    across hosts too.

    Args:
        path: Lock file, created if missing and kept.
        on_busy: Called with a description of another holder; raises to give up,
            returns to wait.

    Yields:
        A function that returns True while `path` is the locked file. It is not after
        the file or a directory above it was deleted, moved or replaced: then another
        process can lock the new file.

    Raises:
        OSError: The file cannot be created or locked.
    """
    descriptor = _locked(path, on_busy)
    try:
        holder = {"host": socket.gethostname(), "process_id": os.getpid(), "start_time": time.time()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        try:
            yield lambda: _is_at(descriptor, path)
        finally:
            with contextlib.suppress(OSError):  # the content is only informative; the lock ends with the descriptor
                os.ftruncate(descriptor, 0)
    finally:
        # A child process between fork and exec has a copy of the descriptor, so closing is not enough.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _locked(path: Path, on_busy: Callable[[str], None]) -> int:
    """Opens and locks the file at `path`, again if it is replaced meanwhile; returns its descriptor."""
    for _ in range(_MAX_ATTEMPTS):
        # A FIFO would block without O_NONBLOCK.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "Not a regular file", str(path))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_busy(_described(os.pread(descriptor, _MAX_HOLDER_BYTES, 0)))
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise OSError(errno.ESTALE, "Replaced by another file again and again", str(path))


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _described(content: bytes) -> str:
    try:
        holder = json.loads(content)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["start_time"]))
        process, host = int(holder["process_id"]), str(holder["host"])
    # The holder is being written at this moment, or it is not a lock file of jaxdp.
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return "another process"
    return f"process {process} on {host}, started {since}" if host.isprintable() else "another process"
