"""One long array that may lie in several mapped files, and the arrays laid end to end in it."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

RESIDENT_BYTES = 1 << 29  # so much of mapped files may stay in this process's memory
RUNS_A_LOOK = 64  # runs read between two looks at it; each may map a page of 2 MiB


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

    Memory does not grow with the data: of shards that are mapped read-only from
    files, what was read is unmapped again whenever it comes to RESIDENT_BYTES. It
    stays in the system's cache, so that reading it again costs a page fault, no disk.

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
        self._mappings = [m for m in map(_read_only_mapping, self._shards) if m is not None]
        self._runs_since_look = 0
        self._most_resident_bytes = _resident_bytes() + RESIDENT_BYTES

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
        if len(self._shards) == 1 and len(starts):
            runs = _windows(self._shards[0], length)[starts]
        else:
            lengths = np.full(len(starts), length)
            runs = self._concatenate(starts, lengths).reshape(len(starts), length)
        self._release(len(starts))
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
        self._release(len(starts))
        return runs

    def _concatenate(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        if len(self._shards) == 1:
            return self._shards[0][np.repeat(starts, lengths) + count_up(lengths)]
        runs = np.empty(int(lengths.sum()), self.dtype)
        which = np.searchsorted(self._ends, starts, side="right")
        ends, at = self._ends.tolist(), 0
        for start, length, shard in zip(starts.tolist(), lengths.tolist(), which.tolist(), strict=True):
            while length:
                array = self._shards[shard]
                offset = start - ends[shard] + len(array)
                part = array[offset : offset + length]
                runs[at : at + len(part)] = part
                at, start, length, shard = at + len(part), start + len(part), length - len(part), shard + 1
        return runs

    def _check(self, starts: np.ndarray, ends: np.ndarray) -> None:
        if starts.size and not (starts.min() >= 0 and ends.max() <= len(self)):
            raise IndexError(
                f"elements {starts.min()} to {ends.max()} of an array of {len(self)}"
            )

    def _release(self, num_runs: int) -> None:
        """Unmaps what was read if it is too much by now."""
        self._runs_since_look += num_runs
        if not self._mappings or self._runs_since_look < RUNS_A_LOOK:
            return
        self._runs_since_look = 0
        if _resident_bytes() > self._most_resident_bytes:
            for mapping in self._mappings:
                mapping.madvise(mmap.MADV_DONTNEED)
            self._most_resident_bytes = _resident_bytes() + RESIDENT_BYTES


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

    def take(
        self, indices: np.ndarray, most: int | None = None, skips: np.ndarray | int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Some of the arrays, whole or a part of each.

        Args:
            indices: [n] integers in range(len(self)).
            most: elements of each that are read; None: all.
            skips: [n] integers, or one for all: elements before those, up to its length.

        Returns:
            (elements [sum(lengths)], lengths [n] int64).
        """
        lengths = self.lengths(indices) - skips
        if most is not None:
            lengths = np.minimum(lengths, most)
        starts = np.asarray(self.offsets)[:-1][indices] + skips
        return self.flat.take_ragged(starts, lengths), lengths


def as_flat(array: np.ndarray | FlatArray) -> FlatArray:
    """A plain array as a `FlatArray`; what is one already stays as it is."""
    return ShardedArray([array]) if isinstance(array, np.ndarray) else array


def count_up(counts: np.ndarray) -> np.ndarray:
    """0, 1, ... count - 1 for each count, one after the other: `[sum(counts)] int64`."""
    firsts = np.cumsum(counts) - counts
    return np.arange(int(np.sum(counts))) - np.repeat(firsts, counts)


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


def _resident_bytes() -> int:
    """What of all files mapped by this process is in its memory; 0 where no system tells.

    How much a page fault maps, 4 KiB to 2 MiB, is up to the system and cannot be guessed.
    """
    try:
        with open("/proc/self/statm") as counts:
            return int(counts.read().split()[2]) * mmap.PAGESIZE
    except FileNotFoundError:
        return 0
