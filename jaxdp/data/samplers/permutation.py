"""Keyed pseudo-random permutation of range(size) in constant memory (format-preserving encryption)."""

from collections.abc import Sequence
from math import isqrt

import numpy as np

from jaxdp.data.random_bits import key_words, mix64

Key = tuple[int | str, ...]


def permute(indices: np.ndarray, size: int, key: Key) -> np.ndarray:
    """Maps indices through a keyed permutation of range(size).

    Memory and time depend on the number of indices, not on `size`, so any position of any epoch is found directly.

    Args:
        indices: [n] integers in range(size).
        size: Size of the range, 1 to 2^62.
        key: Key of the permutation. Equal keys give equal permutations on every machine and in every version, which
            resumed runs rely on.

    Returns:
        [n] int64 in range(size), distinct for distinct indices.

    Raises:
        IndexError: An index is outside range(size).

    Source: Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains: the generalized Feistel network (section 5)
    of 8 rounds on pairs of digits, and cycle walking (section 4) for values between `size` and the next square.
    Differs: the round function is a mixer, not a cipher; it shuffles well but keeps nothing secret.
    See also: grain's `ShuffleMapDataset`, which permutes one element at a time and seeds epochs with `seed + epoch`, so
    that epoch 1 of seed 0 is epoch 0 of seed 1.
    """
    return permute_each(indices, np.zeros(len(indices), np.intp), [size], [key])


def permute_each(indices: np.ndarray, which: np.ndarray, sizes: Sequence[int], keys: Sequence[Key]) -> np.ndarray:
    """Maps indices through several permutations at once, for a batch with rows of several sources.

    Args:
        indices: [n] integers, each in the range of its permutation.
        which: [n] integers, the permutation of each index.
        sizes: Size of each permutation.
        keys: Key of each permutation.

    Returns:
        [n] int64: `permute(indices[i], sizes[which[i]], keys[which[i]])`.

    Raises:
        IndexError: An index is outside its range.
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
    # At most about 2 * sqrt(size) of the side * side values are outside, so few indices walk.
    while (walks := np.flatnonzero(values >= size)).size:
        values[walks] = _feistel(values[walks], side[walks], round_keys[:, walks])
    return values.astype(np.int64)


def _feistel(values: np.ndarray, side: np.ndarray, round_keys: np.ndarray) -> np.ndarray:
    """Applies a bijection of range(side * side).

    Args:
        values: [n] uint64.
        side: [n] uint64.
        round_keys: [num_rounds, n] uint64.

    Returns:
        [n] uint64.
    """
    left, right = np.divmod(values, side)
    for round_key in round_keys:
        left, right = right, (left + mix64(right ^ round_key) % side) % side
    return left * side + right
