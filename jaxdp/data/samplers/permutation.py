"""A pseudo-random order of range(size) without ever writing it down."""

from collections.abc import Sequence
from math import isqrt

import numpy as np

from jaxdp.data.random_bits import key_words, mix64

Key = tuple[int | str, ...]


def permute(indices: np.ndarray, size: int, key: Key) -> np.ndarray:
    """Where a keyed permutation of range(size) sends each index.

    Memory and time depend on the number of indices, not on `size`, so any place
    of any epoch's order is reached at once.

    Args:
        indices: [n] integers in range(size).
        size: 1 to 2^62.
        key: equal keys, equal permutation, on every machine and for ever: a
            resumed run relies on it.

    Returns:
        [n] int64 in range(size), distinct for distinct indices.

    Raises:
        IndexError: an index outside range(size).

    Source: Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains:
    the generalized Feistel network (section 5) of 8 rounds on pairs of digits,
    cycle walking (section 4) for what lies between `size` and the next square.
    Departs: the round function is a mixer, not a cipher: good shuffling, no secrecy.
    """
    return permute_each(indices, np.zeros(len(indices), np.intp), [size], [key])


def permute_each(
    indices: np.ndarray, which: np.ndarray, sizes: Sequence[int], keys: Sequence[Key]
) -> np.ndarray:
    """Several permutations in one go, as a batch that is of several sources needs.

    Args:
        indices: [n] integers, each in the range of its permutation.
        which: [n] integers: index i goes through permutation `which[i]`.
        sizes: of each permutation.
        keys: of each permutation.

    Returns:
        [n] int64: what `permute(indices[i], sizes[which[i]], keys[which[i]])` is.

    Raises:
        IndexError: an index outside its range.
    """
    indices = np.asarray(indices)
    if not len(indices):
        return np.empty(0, np.int64)
    size = np.array(sizes, np.int64)[which]
    if outside := np.flatnonzero((indices < 0) | (indices >= size)).tolist():
        raise IndexError(f"index {indices[outside[0]]}, expected range({size[outside[0]]})")
    side = np.array([isqrt(size - 1) + 1 for size in sizes], np.uint64)[which]
    round_keys = np.array([key_words(*key) for key in keys]).T[:, which]
    size = size.astype(np.uint64)
    values = _feistel(indices.astype(np.uint64), side, round_keys)
    # At most about 2 * sqrt(size) of the side * side values lie outside, so few walk.
    while (walks := np.flatnonzero(values >= size)).size:
        values[walks] = _feistel(values[walks], side[walks], round_keys[:, walks])
    return values.astype(np.int64)


def _feistel(values: np.ndarray, side: np.ndarray, round_keys: np.ndarray) -> np.ndarray:
    """A bijection of range(side * side): [n] uint64 to [n] uint64.

    Args:
        values: [n] uint64.
        side: [n] uint64.
        round_keys: [num_rounds, n] uint64.
    """
    left, right = np.divmod(values, side)
    for round_key in round_keys:
        left, right = right, (left + mix64(right ^ round_key) % side) % side
    return left * side + right
