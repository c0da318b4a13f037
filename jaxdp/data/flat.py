"""One long array that may lie in several mapped files, and the arrays laid end to end in it."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

RESIDENT_BYTES = 1 << 28  # about as much of the mapped files stays in this process's memory
FAULT_BYTES = 1 << 16  # what Linux maps around a page that is touched


class FlatArray(Protocol):
    """What rows are cut from."""

    def __len__(self) -> int:
        """Number of elements."""

    def take(self, starts: np.ndarray, length: int) -> np.ndarray:
        """`[n, length]`: the elements `start` to `start + length` for `[n]` starts."""

    def take_ragged(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """`[sum(lengths)]`: `lengths[i]` elements from `starts[i]`, one run after the other."""


class ShardedArray:
    """Several arrays read as one, a run of elements crossing from one to the next.

    Memory does not grow with the data: where shards are mapped read-only from
    files, the pages that were read are unmapped again from time to time. They stay
    in the system's cache, so that reading them again costs a page fault, no disk.

    Args:
        shards: each `[num_elements]`, all of one dtype, in memory or memory-mapped;
            one or more.

    Attributes:
        dtype: of the elements.
    """

    def __init__(self, shards: Sequence[np.ndarray]):
        if len({shard.dtype for shard in shards}) != 1 or any(shard.ndim != 1 for shard in shards):
            raise ValueError(f"expected [n] arrays of one dtype, found {[(s.dtype, s.shape) for s in shards]}")
        self.dtype = shards[0].dtype
        # As plain arrays: slicing an np.memmap runs Python code for each slice.
        self._shards = [np.ascontiguousarray(np.asarray(shard)) for shard in shards if len(shard)]
        self._ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)
        self._begins = self._ends - [len(shard) for shard in self._shards]
        self._mappings = [m for m in map(_read_only_mapping, self._shards) if m is not None]
        self._touched_bytes = 0

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._shards else 0

    def take(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Runs of equal length.

        Args:
            starts: [n] integers, each start and start + length in range(len + 1).
            length: 0 or more.

        Returns:
            [n, length] of `dtype`.

        Raises:
            IndexError: a run reaches outside the array.
        """
        starts = np.asarray(starts, np.int64)
        self._check(starts, starts + length)
        if not len(starts):
            return np.empty((0, length), self.dtype)  # of which there may be no window
        if len(self._shards) == 1:
            runs = _windows(self._shards[0], length)[starts]
        else:
            runs = np.empty((len(starts), length), self.dtype)
            shard_of = np.searchsorted(self._ends, starts, side="right")
            shard_of = np.minimum(shard_of, len(self._shards) - 1)  # an empty run at the very end
            crosses = starts + length > self._ends[shard_of]
            shard_of[crosses] = -1
            for shard in np.unique(shard_of).tolist():
                here = np.flatnonzero(shard_of == shard)
                if shard >= 0:
                    windows = _windows(self._shards[shard], length)
                    runs[here] = windows[starts[here] - self._begins[shard]]
                else:
                    lengths = np.full(len(here), length)
                    runs[here] = self._concatenate(starts[here], lengths).reshape(-1, length)
        self._release(len(starts), runs.nbytes)
        return runs

    def take_ragged(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Runs of unequal length, one after the other.

        Args:
            starts: [n] integers.
            lengths: [n] integers, 0 or more.

        Returns:
            [sum(lengths)] of `dtype`.

        Raises:
            IndexError: a run reaches outside the array.
        """
        starts, lengths = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
        self._check(starts, starts + lengths)
        runs = self._concatenate(starts, lengths)
        self._release(len(starts), runs.nbytes)
        return runs

    def _concatenate(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        runs = np.empty(int(lengths.sum()), self.dtype)
        shard_of = np.searchsorted(self._ends, starts, side="right")
        place = 0
        for start, length, shard in zip(
            starts.tolist(), lengths.tolist(), shard_of.tolist(), strict=True
        ):
            end = place + length
            while place < end:
                offset = start - int(self._begins[shard])
                part = self._shards[shard][offset : offset + end - place]
                runs[place : place + len(part)] = part
                place, start, shard = place + len(part), start + len(part), shard + 1
        return runs

    def _check(self, starts: np.ndarray, ends: np.ndarray) -> None:
        if starts.size and not (starts.min() >= 0 and ends.max() <= len(self)):
            raise IndexError(
                f"elements {starts.min()} to {ends.max()} of an array of {len(self)}"
            )

    def _release(self, num_runs: int, num_bytes: int) -> None:
        """Unmaps what was read when it may have come to RESIDENT_BYTES."""
        self._touched_bytes += num_bytes + num_runs * FAULT_BYTES
        if self._mappings and self._touched_bytes >= RESIDENT_BYTES:
            for mapping in self._mappings:
                mapping.madvise(mmap.MADV_DONTNEED)
            self._touched_bytes = 0


@dataclass(frozen=True)
class RaggedArray:
    """Arrays of unequal length, laid end to end.

    Attributes:
        flat: all of them.
        offsets: [num_arrays + 1] integers: array i is `flat[offsets[i] : offsets[i + 1]]`;
            may be memory-mapped.
    """

    flat: FlatArray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self, indices: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Elements of some arrays, or of all: `[n] int64`."""
        offsets = np.asarray(self.offsets)
        return (offsets[1:][indices] - offsets[:-1][indices]).astype(np.int64, copy=False)

    def take(self, indices: np.ndarray, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Some of the arrays, whole or their first elements.

        Args:
            indices: [n] integers in range(len(self)).
            most: elements of each that are read; None: all.

        Returns:
            (elements [sum(lengths)], lengths [n] int64).
        """
        lengths = self.lengths(indices)
        if most is not None:
            lengths = np.minimum(lengths, most)
        starts = np.asarray(self.offsets)[:-1][indices]
        return self.flat.take_ragged(starts, lengths), lengths


def as_flat(array: np.ndarray | FlatArray) -> FlatArray:
    """A plain array as a `FlatArray`; what is one already stays as it is."""
    return ShardedArray([array]) if isinstance(array, np.ndarray) else array


def _windows(array: np.ndarray, length: int) -> np.ndarray:
    """Every run of `length` elements, without a copy: `[len(array) - length + 1, length]`.

    Picking rows of it copies whole runs: 4 to 5 times as fast as a matrix of
    positions, which has to be written and read too.
    """
    shape = (len(array) - length + 1, length)
    return np.ndarray(shape, array.dtype, array, strides=(array.itemsize, array.itemsize))


def _read_only_mapping(array: np.ndarray) -> mmap.mmap | None:
    """The file mapping below an array, if nobody can write through it.

    Unmapping pages of a private copy that was written to would lose what was written.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return None  # this system does not let pages go
    while isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.base
    return array if isinstance(array, mmap.mmap) else None
