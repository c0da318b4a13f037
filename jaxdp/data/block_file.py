"""Random access to a file with `pread`; blocks of a cache entry are verified on first use.

A memory-mapped file that is truncated while it is read ends the process with SIGBUS, which Python cannot catch. `pread`
returns fewer bytes instead, and it keeps no file position, so any number of threads share a descriptor.
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
"""Maximum number of bytes of files that one process keeps in memory; further files are read from disk each time."""


class _MemoryBudget:
    """Number of bytes of MEMORY_BYTES that are in use."""

    def __init__(self):
        self._used, self._lock = 0, threading.Lock()

    def claim(self, num_bytes: int) -> bool:
        """Reserves bytes; returns False if they exceed the budget."""
        with self._lock:
            fits = self._used + num_bytes <= MEMORY_BYTES
            self._used += num_bytes * fits
            return fits

    def release(self, num_bytes: int) -> None:
        """Returns reserved bytes."""
        with self._lock:
            self._used -= num_bytes


_budget = _MemoryBudget()


class BlockFile:
    """File that is read by position, from any thread; it can be pickled.

    A small file is kept in memory, block by block as it is used, up to MEMORY_BYTES for all files together.

    Args:
        path: Path of the file.
        num_bytes: Size of the file if it is known; None: its size now.
        entry: Cache entry of the file, whose block checksums are verified; None: a file of the user, without checksums.

    Attributes:
        memory: [num_bytes] uint8, valid where `load` has been; None: the file is not kept in memory.

    Raises:
        UserError: The file does not exist, cannot be read or is too short.
    """

    def __init__(self, path: str | os.PathLike[str], num_bytes: int | None = None, entry: Path | None = None):
        self.path, self._entry = os.fspath(path), entry
        try:
            self._descriptor = _open(self.path)
            # Not when the interpreter exits, since another thread may still be reading.
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
        if entry is not None and self._checksums is not None and len(self._checksums) != num_blocks(self.num_bytes):
            raise damaged_entry(
                entry, self.path, f"{len(self._checksums)} checksums of {num_blocks(self.num_bytes)} blocks"
            )
        # One byte per block: threads set different bytes without a lock.
        self._is_good = np.zeros(num_blocks(self.num_bytes), bool)
        self.memory = None
        if _budget.claim(self.num_bytes):
            weakref.finalize(self, _budget.release, self.num_bytes)
            self.memory = np.empty(self.num_bytes, np.uint8)  # uses memory only where it is written

    def __reduce__(self):
        return BlockFile, (self.path, self.num_bytes, self._entry)

    def load(self, starts: np.ndarray, ends: np.ndarray) -> None:
        """Verifies the blocks of byte ranges, and copies them into `memory` if the file is kept there.

        Args:
            starts: [n] int64 positions in the file.
            ends: [n] int64, each its start or more.

        Raises:
            UserError: The file is too short, cannot be read or, in the cache, is damaged.
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
        if self._checksums is not None and block_checksum(content.data) != self._checksums[block]:
            raise self._damaged(f"the checksum of block {block} of {BLOCK_BYTES >> 20} MiB differs")
        if self.memory is not None:  # after the check, since another thread may read the block at once
            self.memory[start : start + len(content)] = content
        self._is_good[block] = True

    def read_into(self, buffers: list[np.ndarray], positions: list[int]) -> None:
        """Fills contiguous arrays with the bytes at these positions, without verification.

        Raises:
            UserError: The file is too short or cannot be read.
        """
        descriptor, read = self._descriptor, os.preadv
        try:
            for buffer, position in zip(buffers, positions, strict=True):
                if read(descriptor, (buffer.data,), position) != buffer.nbytes:
                    self._read_on(buffer, position)
        except OSError as error:
            raise self._unreadable(error) from error

    def _read_on(self, buffer: np.ndarray, position: int) -> None:
        """Reads in several calls: one call returns at most 2 GiB, and less if a signal arrives; 0 bytes mean the end of the file."""
        view, done = buffer.data.cast("B"), 0
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
        assert self._entry is not None, "only the files of a cache entry have checksums and a known size"
        return damaged_entry(self._entry, self.path, what, still_used=self._is_at_path())

    def _is_at_path(self) -> bool:
        """Returns False if the entry has been rebuilt since this file was opened."""
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
    """Opens a file; if the process has too many open files, raises its limit to the maximum."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would block
    try:
        return os.open(path, flags)
    except OSError as error:
        limit, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
        if error.errno != errno.EMFILE or limit == maximum:
            raise
        resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))
        return os.open(path, flags)
