"""One-dimensional arrays in memory, read as runs of elements."""

import numpy as np


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
