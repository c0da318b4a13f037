import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from jaxdp.data.samplers.permutation import permute, permute_each

GOLDEN = [9, 3, 1, 6, 8, 7, 4, 2, 0, 5]
SIZES = [*range(1, 70), *(2**k + d for k in (7, 10, 13, 16) for d in (-1, 0, 1)), 100_000]


def test_bijection():
    for size in SIZES:
        for key in ((0, 0), (7, 1)):
            order = permute(np.arange(size), size, key)
            assert order.dtype == np.int64
            assert (np.sort(order) == np.arange(size)).all(), size


def test_is_the_same_for_ever():
    """Golden values: a resumed run relies on them. A change breaks every checkpoint."""
    assert permute(np.arange(10), 10, ("epoch", 0, 0)).tolist() == GOLDEN


def test_any_subset_in_any_order():
    whole = permute(np.arange(1000), 1000, (3,))
    some = np.array([999, 0, 500, 500], np.int32)
    np.testing.assert_array_equal(permute(some, 1000, (3,)), whole[some])
    assert permute(np.array([], np.int64), 1000, (3,)).shape == (0,)


def test_different_keys_differ():
    keys = [(0, 0), (0, 1), (1, 0), (1, 1), (-1, 0), (2**70, 0), ("a", 0), (0,), (1, 10), (11, 0)]
    orders = {tuple(permute(np.arange(100), 100, key)) for key in keys}
    assert len(orders) == len(keys)


def test_small_orders_all_occur():
    """Of four things every one of the 24 orders, none more than three times as often as due."""
    counts = Counter(tuple(permute(np.arange(4), 4, (key,))) for key in range(2400))
    assert set(counts) == set(itertools.permutations(range(4)))
    assert max(counts.values()) < 300


@pytest.mark.parametrize("size", [1000, 4096, 100_003])
def test_looks_random(size):
    order = permute(np.arange(size), size, (5, size))
    # Where the first tenth lands: 10 equal bins, chi-square with 9 degrees of freedom.
    counts = np.bincount(order[: size // 10] * 10 // size, minlength=10)
    due = (size // 10) / 10
    assert ((counts - due) ** 2 / due).sum() < 27.9  # exceeded by chance once in 1000
    # Neighbours, and places `side` apart, are uncorrelated: 4 standard errors.
    for lag in (1, 2, int(size**0.5) + 1):
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 4 / size**0.5
    assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 4 / size**0.5
    # Steps between neighbours hardly repeat, which an affine map would do.
    assert len(np.unique(np.diff(order))) > 0.4 * size
    # A random permutation has one fixed point on average.
    assert (order == np.arange(size)).sum() < 8


def test_epochs_are_unrelated():
    first, second = (permute(np.arange(10_000), 10_000, (0, epoch)) for epoch in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.04


@pytest.mark.parametrize("size", [10**9, 10**9 + 7, 10**12, 2**62])
def test_huge_sizes_cost_nothing(size):
    rng = np.random.default_rng(0)
    indices = np.unique(np.append(rng.integers(0, size, 10_000), [0, 1, size // 2, size - 1]))
    permute(indices[:10], size, (0, 0))
    tracemalloc.start()
    order = permute(indices, size, (0, 0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20  # some 30 arrays of 80 kB
    assert len(np.unique(order)) == len(indices) and (order >= 0).all() and (order < size).all()
    counts = np.bincount(order // -(-size // 10), minlength=10)
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9  # as in test_looks_random


def test_several_at_once():
    sizes, keys = [7, 1000, 1, 10**9], [("a",), ("b", 1), ("c",), ("a",)]
    rng = np.random.default_rng(0)
    which = rng.integers(0, 4, 500)
    indices = rng.integers(0, np.array(sizes)[which])
    expected = [
        permute(indices[i : i + 1], sizes[permutation], keys[permutation])[0] for i, permutation in enumerate(which)
    ]
    np.testing.assert_array_equal(permute_each(indices, which, sizes, keys), expected)
    assert permute_each(indices[:0], which[:0], sizes, keys).shape == (0,)


def test_indices_outside():
    for bad in ([-1], [10], [0, 11]):
        with pytest.raises(IndexError):
            permute(np.array(bad), 10, (0,))
    with pytest.raises(IndexError, match=r"index 7, expected range\(7\)"):
        permute_each(np.array([7, 7]), np.array([0, 1]), [8, 7], [(0,), (1,)])
