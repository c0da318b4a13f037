"""Sharded, memory-mapped 1-D arrays, and ragged views of them.

Arrow lists offer the same; these arrays keep the memory of a process bounded, whatever part of the data it reads,
see `BlockFile`.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxdp.data.sequences.element_arrays import DiskArray, MemoryArray, count_up


class FlatArray(Protocol):
    """One-dimensional array that sequences are cut from."""

    def __len__(self) -> int:
        """Returns the number of elements."""
        ...

    def take(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Returns the elements `start` to `start + length` for `[n]` starts: `[n, length]`."""
        ...

    def take_ragged(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns `lengths[i]` elements from `starts[i]`, one run after the other: `[sum(lengths)]`."""
        ...


class ShardedArray:
    """Several arrays read as one; a run of elements may cross from one to the next.

    Memory does not grow with the data, see `BlockFile`.

    Args:
        shards: Arrays `[num_elements]` of one dtype, in memory or on disk; one or more.

    Attributes:
        dtype: Dtype of the elements.
    """

    def __init__(self, shards: Sequence[np.ndarray | DiskArray]):
        is_flat = all(shard.ndim == 1 for shard in shards if isinstance(shard, np.ndarray))
        if len({shard.dtype for shard in shards}) != 1 or not is_flat:
            found = [(s.dtype, s.shape if isinstance(s, np.ndarray) else (len(s),)) for s in shards]
            raise ValueError(f"expected [n] arrays of one dtype, found {found}")
        self.dtype = shards[0].dtype
        self._shards = [MemoryArray(s) if isinstance(s, np.ndarray) else s for s in shards if len(s)]
        sizes = np.array([len(shard) for shard in self._shards], np.int64)
        self._ends = np.cumsum(sizes)
        self._begins = self._ends - sizes

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._shards else 0

    def take(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Reads runs of equal length.

        Args:
            starts: [n] integers, each start and start + length in range(len + 1).
            length: Number of elements of each run, 0 or more.

        Returns:
            [n, length] of `dtype`.

        Raises:
            IndexError: A run reaches outside the array.
            UserError: A file cannot be read, or a cache file is damaged.
        """
        starts = np.asarray(starts, np.int64)
        self._check(starts, starts + length)
        if len(self._shards) == 1:
            return self._shards[0].take(starts, length)
        runs = np.empty((len(starts), length), self.dtype)
        which = np.searchsorted(self._ends, starts, side="right")
        is_crossing = starts + length > np.append(self._ends, 0)[which]
        for number, (shard, begin) in enumerate(zip(self._shards, self._begins.tolist(), strict=True)):
            here = np.flatnonzero((which == number) & ~is_crossing)
            if here.size:
                runs[here] = shard.take(starts[here] - begin, length)
        crossing = np.flatnonzero(is_crossing)
        runs[crossing] = self._concatenate(starts[crossing], np.full(len(crossing), length)).reshape(
            len(crossing), length
        )
        return runs

    def take_ragged(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Reads runs of unequal length, one after the other.

        Args:
            starts: [n] integers.
            lengths: [n] integers, 0 or more.

        Returns:
            [sum(lengths)] of `dtype`.

        Raises:
            IndexError: A run reaches outside the array.
            UserError: A file cannot be read, or a cache file is damaged.
        """
        starts, lengths = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
        self._check(starts, starts + lengths)
        if len(self._shards) == 1:
            return self._shards[0].take_ragged(starts, lengths)
        return self._concatenate(starts, lengths)

    def _concatenate(self, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Reads runs that span shards: the pieces of one shard together, copied to their positions."""
        runs = np.empty(int(lengths.sum()), self.dtype)
        positions = np.cumsum(lengths) - lengths  # in `runs`
        for shard, begin, end in zip(self._shards, self._begins.tolist(), self._ends.tolist(), strict=True):
            here = np.flatnonzero((starts < end) & (starts + lengths > begin))
            if not here.size:
                continue
            first = np.maximum(starts[here], begin)
            sizes = np.minimum(starts[here] + lengths[here], end) - first
            targets = positions[here] + first - starts[here]
            runs[np.repeat(targets, sizes) + count_up(sizes)] = shard.take_ragged(first - begin, sizes)
        return runs

    def _check(self, starts: np.ndarray, ends: np.ndarray) -> None:
        if starts.size and not (starts.min() >= 0 and ends.max() <= len(self)):
            raise IndexError(f"elements {starts.min()} to {ends.max()} of an array of {len(self)}")


@dataclass(frozen=True)
class RaggedArray:
    """Arrays of unequal length, concatenated.

    Attributes:
        flat: Concatenation of all arrays.
        offsets: [num_arrays + 1] integers: array i is `flat[offsets[i] : offsets[i + 1]]`.
    """

    flat: FlatArray
    offsets: np.ndarray | FlatArray

    @functools.cached_property
    def _offsets(self) -> FlatArray:
        return as_flat(self.offsets)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def lengths(self, indices: np.ndarray | None = None) -> np.ndarray:
        """Returns the number of elements of some arrays, or of all: `[n] int64`."""
        if indices is None:
            return np.diff(self._offsets.take(np.zeros(1, np.int64), len(self._offsets))[0]).astype(
                np.int64, copy=False
            )
        return self._bounds(indices)[1]

    def _bounds(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the starts and lengths of some arrays: `[n] int64` each."""
        bounds = self._offsets.take(indices, 2).astype(np.int64, copy=False)
        return bounds[:, 0], bounds[:, 1] - bounds[:, 0]

    def take(
        self, indices: np.ndarray, max_length: int | None = None, skips: np.ndarray | int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads some of the arrays, whole or a part of each.

        Args:
            indices: [n] integers in range(len(self)).
            max_length: Maximum number of elements read of each array; None: all.
            skips: [n] integers, or one for all: number of elements to skip first, up to the length of the array.

        Returns:
            (elements [sum(lengths)], lengths [n] int64).
        """
        starts, lengths = self._bounds(indices)
        lengths = lengths - skips
        if max_length is not None:
            lengths = np.minimum(lengths, max_length)
        return self.flat.take_ragged(starts + skips, lengths), lengths


def as_flat(array: np.ndarray | FlatArray) -> FlatArray:
    """Returns a plain array as a `FlatArray`, and a `FlatArray` unchanged."""
    return ShardedArray([array]) if isinstance(array, np.ndarray) else array
