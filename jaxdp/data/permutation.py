"""A pseudo-random order of range(size) without ever writing it down."""

from math import isqrt

import numpy as np

from jaxdp.data.hashing import key_words, mix64


def permute(indices: np.ndarray, size: int, key: tuple[int | str, ...]) -> np.ndarray:
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
    indices = np.asarray(indices)
    if indices.size and not 0 <= indices.min() <= indices.max() < size:
        raise IndexError(f"indices from {indices.min()} to {indices.max()}, expected range({size})")
    side = isqrt(size - 1) + 1
    round_keys = key_words(*key)
    values = _feistel(indices.astype(np.uint64), side, round_keys)
    # At most about 2 * sqrt(size) of the side * side values lie outside, so few walk.
    while (outside := values >= np.uint64(size)).any():
        values[outside] = _feistel(values[outside], side, round_keys)
    return values.astype(np.int64)


def _feistel(values: np.ndarray, side: int, round_keys: np.ndarray) -> np.ndarray:
    """A bijection of range(side * side): uint64 to uint64."""
    side = np.uint64(side)
    left, right = np.divmod(values, side)
    for round_key in round_keys:
        left, right = right, (left + mix64(right ^ round_key) % side) % side
    return left * side + right
