"""One-dimensional arrays in memory and in files, read as runs of elements."""

import os
from pathlib import Path

import numpy as np

from jaxdp.data.block_file import BlockFile


class MemoryArray:
    """`FlatArray` in memory.

    Args:
        array: `[num_elements]`, in memory or memory-mapped by the caller.
    """

    def __init__(self, array: np.ndarray):
        # As a plain array: slicing an np.memmap runs Python code for each slice.
        self._array = np.ascontiguousarray(np.asarray(array))
        self.dtype = self._array.dtype

    def __len__(self) -> int:
        return len(self._array)

    def take(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Copies runs of equal length."""
        if not len(starts):
            return np.empty((0, length), self.dtype)
        return _windows(self._array, length)[starts]

    def take_ragged(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Copies runs of unequal length."""
        return self._array[np.repeat(starts, lengths) + count_up(lengths)]


def count_up(counts: np.ndarray) -> np.ndarray:
    """Returns 0, 1, ... count - 1 for each count, one after the other: `[sum(counts)] int64`."""
    firsts = np.cumsum(counts) - counts
    return np.arange(int(np.sum(counts))) - np.repeat(firsts, counts)


def _windows(array: np.ndarray, length: int) -> np.ndarray:
    """Returns a view of every run of `length` elements: `[len(array) - length + 1, length]`.

    Indexing it copies whole runs, 4 to 5 times as fast as indexing with a matrix of positions, which has to be written
    and read too.
    """
    shape = (len(array) - length + 1, length)
    return np.ndarray(shape, array.dtype, array, strides=(array.itemsize, array.itemsize))


class DiskArray:
    """`FlatArray` in a file; blocks of a cache file are verified on first use.

    Args:
        file: File with the elements.
        dtype: Dtype of the elements, which fill the file from `first` on.
        first: Index in the file of the first element of the array.
        length: Number of elements.
    """

    def __init__(self, file: BlockFile, dtype: np.dtype, first: int, length: int):
        self._file, self.dtype, self._first, self._length = file, np.dtype(dtype), first, length
        self.nbytes = length * self.dtype.itemsize
        # Only loaded blocks hold valid elements.
        self._in_memory = None
        if file.memory is not None:
            begin = first * self.dtype.itemsize
            self._in_memory = MemoryArray(file.memory[begin : begin + self.nbytes].view(self.dtype))

    def __len__(self) -> int:
        return self._length

    def part(self, start: int, stop: int) -> "DiskArray":
        """Returns the elements `start` to `stop` as an array of the same file."""
        if not 0 <= start <= stop <= self._length:
            raise IndexError(f"elements {start} to {stop} of an array of {self._length}")
        return DiskArray(self._file, self.dtype, self._first + start, stop - start)

    def to_numpy(self) -> np.ndarray:
        """Reads all elements."""
        return self.take(np.zeros(1, np.int64), self._length)[0]

    def take(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Reads runs of equal length, see `FlatArray`.

        Raises:
            UserError: See `BlockFile.load`.
        """
        starts = np.asarray(starts, np.int64)
        positions = self._load(starts, np.full(len(starts), length))
        if self._in_memory is not None:
            return self._in_memory.take(starts, length)
        runs = np.empty((len(starts), length), self.dtype)
        if length:
            self._file.read_into(list(runs), positions.tolist())
        return runs

    def take_ragged(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Reads runs of unequal length, see `FlatArray`.

        Raises:
            UserError: See `BlockFile.load`.
        """
        starts, lengths = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
        positions = self._load(starts, lengths)
        if self._in_memory is not None:
            return self._in_memory.take_ragged(starts, lengths)
        ends = np.cumsum(lengths)
        runs = np.empty(int(lengths.sum()), self.dtype)
        buffers = [runs[begin:end] for begin, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]
        self._file.read_into(buffers, positions.tolist())
        return runs

    def _load(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Checks the range of runs and loads their blocks; returns their positions in the file."""
        if starts.size and not (starts.min() >= 0 and (starts + lengths).max() <= self._length):
            raise IndexError(f"elements {starts.min()} to {(starts + lengths).max()} of an array of {self._length}")
        positions = (self._first + starts) * self.dtype.itemsize
        self._file.load(positions, positions + lengths * self.dtype.itemsize)
        return positions


def open_disk_array(
    path: str | os.PathLike[str], dtype: np.dtype, length: int | None = None, entry: Path | None = None
) -> DiskArray:
    """Opens a file of elements.

    Args:
        path: Path of the file.
        dtype: Dtype of its elements, which begin at the first byte.
        length: Number of elements; None: as many as the file has now.
        entry: Cache entry of the file, see `BlockFile`.

    Raises:
        UserError: See `BlockFile`.
    """
    itemsize = np.dtype(dtype).itemsize
    file = BlockFile(path, None if length is None else length * itemsize, entry)
    return DiskArray(file, dtype, 0, file.num_bytes // itemsize)
