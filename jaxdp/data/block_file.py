"""Random access to a file with `pread`, the blocks of a cache entry checked on first use.

A memory-mapped file that is truncated while it is read ends the process with SIGBUS, which Python cannot catch.
`pread` says instead that it read less, and it keeps no file position, so any number of threads share a descriptor.
"""

import errno
import os
import resource
import stat
import threading
import weakref
from pathlib import Path

import numpy as np

from jaxdp.data.block_checksums import BLOCK_BYTES, block_checksum, num_blocks, read_block_checksums
from jaxdp.data.preparing.cache import damaged_entry
from jaxdp.errors import UserError

MEMORY_BYTES = 1 << 28
"""Bytes of files that one process keeps in memory at most; files beyond it are read from disk each time."""


class _MemoryBudget:
    """Bytes of MEMORY_BYTES that are in use."""

    def __init__(self):
        self._used, self._lock = 0, threading.Lock()

    def claim(self, num_bytes: int) -> bool:
        with self._lock:
            fits = self._used + num_bytes <= MEMORY_BYTES
            self._used += num_bytes * fits
            return fits

    def release(self, num_bytes: int) -> None:
        with self._lock:
            self._used -= num_bytes


_budget = _MemoryBudget()


class BlockFile:
    """A file that is read by position, from any thread, and that may be pickled.

    A small file is kept in memory, block by block as it is used, up to MEMORY_BYTES of all files together.

    Args:
        path: the file.
        num_bytes: its size, where it is known; None: as it is now.
        entry: the cache entry that it belongs to, whose block checksums are checked; None: a file of the user, which
            has none.

    Attributes:
        memory: [num_bytes] uint8, valid where `load` has been; None: the file is not kept in memory.

    Raises:
        UserError: the file is not there, not readable or too short.
    """

    def __init__(self, path: str | os.PathLike, num_bytes: int | None = None, entry: Path | None = None):
        self.path, self._entry = os.fspath(path), entry
        try:
            self._descriptor = _open(self.path)
            # Not at the end of the interpreter, when another thread can still be reading.
            weakref.finalize(self, os.close, self._descriptor).atexit = False
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "Not a regular file", self.path)
            found = status.st_size
            self._checksums = None if entry is None else read_block_checksums(path)
        except OSError as error:
            raise self._unreadable(error) from error
        self.num_bytes = found if num_bytes is None else num_bytes
        if found < self.num_bytes:
            raise self._too_short(found)
        if entry is not None and len(self._checksums) != num_blocks(self.num_bytes):
            raise damaged_entry(entry, self.path, f"{len(self._checksums)} checksums of {num_blocks(self.num_bytes)} blocks")
        # One byte a block: threads set different ones without disturbing each other.
        self._is_good = np.zeros(num_blocks(self.num_bytes), bool)
        self.memory = None
        if _budget.claim(self.num_bytes):
            weakref.finalize(self, _budget.release, self.num_bytes)
            self.memory = np.empty(self.num_bytes, np.uint8)  # takes memory where it is written to

    def __reduce__(self):
        return BlockFile, (self.path, self.num_bytes, self._entry)

    def load(self, starts: np.ndarray, ends: np.ndarray) -> None:
        """Checks the blocks of some byte ranges, and puts them into `memory` if the file is kept there.

        Args:
            starts: [n] int64 positions in the file.
            ends: [n] int64, each its start or more.

        Raises:
            UserError: the file is too short, not readable or, in the cache, damaged.
        """
        if self._checksums is None and self.memory is None:
            return
        is_range = ends > starts
        first, last = starts[is_range] // BLOCK_BYTES, (ends[is_range] - 1) // BLOCK_BYTES
        if self._is_good[first].all() and self._is_good[last].all() and (last - first < 2).all():
            return
        needed = np.zeros(len(self._is_good), bool)
        for start, end in np.unique(np.stack([first, last], axis=1), axis=0).tolist():
            needed[start : end + 1] = True
        for block in np.flatnonzero(needed & ~self._is_good).tolist():
            self._load_block(block)

    def _load_block(self, block: int) -> None:
        start = block * BLOCK_BYTES
        content = np.empty(min(BLOCK_BYTES, self.num_bytes - start), np.uint8)
        self.read_into([content], [start])
        if self._checksums is not None and block_checksum(content) != self._checksums[block]:
            raise self._damaged(f"the checksum of block {block} of {BLOCK_BYTES >> 20} MiB differs")
        if self.memory is not None:  # only now: another thread may read the block already
            self.memory[start : start + len(content)] = content
        self._is_good[block] = True

    def read_into(self, buffers: list[np.ndarray], positions: list[int]) -> None:
        """Fills contiguous arrays with the bytes from these positions on, unchecked.

        Raises:
            UserError: the file is too short or not readable.
        """
        descriptor, read = self._descriptor, os.preadv
        try:
            for buffer, position in zip(buffers, positions, strict=True):
                if read(descriptor, (buffer,), position) != buffer.nbytes:
                    self._read_on(buffer, position)
        except OSError as error:
            raise self._unreadable(error) from error

    def _read_on(self, buffer: np.ndarray, position: int) -> None:
        """A single call gives at most 2 GiB, and less where a signal comes; nothing is the end of the file."""
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view):
            count = os.preadv(self._descriptor, (view[done:],), position + done)
            if not count:
                raise self._too_short(os.fstat(self._descriptor).st_size)
            done += count

    def _too_short(self, found: int) -> UserError:
        if self._entry is not None:
            return self._damaged(f"it has {found:,} of {self.num_bytes:,} bytes")
        return UserError(
            f"{self.path} became shorter while it was read: expected {self.num_bytes:,} bytes, found {found:,}; "
            "put the whole file back and run the same command again."
        )

    def _damaged(self, what: str) -> UserError:
        return damaged_entry(self._entry, self.path, what, still_used=self._is_at_path())

    def _is_at_path(self) -> bool:
        """False: the entry has been built again since this file was opened."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        except OSError:
            return True

    def _unreadable(self, error: OSError) -> UserError:
        if self._entry is not None:
            return damaged_entry(self._entry, self.path, error.strerror or str(error))
        return UserError(
            f"{self.path} cannot be read ({error.strerror or error}): give this user the right to read it, or check the disk."
        )


def _open(path: str) -> int:
    """A descriptor; where the process has too many, its limit is raised as far as it may be."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would block
    try:
        return os.open(path, flags)
    except OSError as error:
        limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if error.errno != errno.EMFILE or limit == most:
            raise
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return os.open(path, flags)
