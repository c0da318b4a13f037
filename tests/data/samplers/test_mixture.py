import dataclasses
import itertools
import json
import math
import tracemalloc

import numpy as np
import pytest

from jaxdp.data.samplers.mixture import (
    ConcatenatedSequences,
    MixtureSampler,
    block_quotas,
    mixture_weights,
    temperature_weights,
)
from jaxdp.data.samplers.permutation import permute
from jaxdp.data.sequences.windows import TokenWindows
from jaxdp.errors import UserError

BATCH = 32


def mixture(sizes=(70, 1000, 3), weights=(0.25, 0.7, 0.05), **changes):
    options = {"global_batch_size": BATCH, "seed": 5, "shuffle": True} | changes
    return MixtureSampler(sizes=sizes, weights=weights, **options)


def sequence(order, num_steps, start_step=0):
    places = np.arange(order.global_batch_size, dtype=np.int32)
    steps = range(start_step, start_step + num_steps)
    return np.concatenate([order.rows(step, places) for step in steps])


def epochs_of(order, group):
    """The rows that one group gives, for ever, one by one."""
    first, size = sum(order.sizes[:group]), order.sizes[group]
    for epoch in itertools.count():
        members = np.arange(size)
        if order.shuffle:
            members = permute(members, size, ("epoch", order.seed, group, epoch))
        yield from (first + members).tolist()


def naive_sequence(order, num_blocks):
    """What an order gives, read from the start, with nothing but counters."""
    groups = range(len(order.sizes))
    sources = [epochs_of(order, group) for group in groups]
    of_block = [group for group in groups for _ in range(order.quotas[group])]
    for block in range(num_blocks):
        for place in range(len(of_block)):
            [at] = permute(np.array([place]), len(of_block), ("mixture", order.seed, block))
            yield next(sources[of_block[at]])


@pytest.mark.parametrize("shuffle", [True, False])
def test_is_what_counters_give(shuffle):
    order = mixture(shuffle=shuffle)
    expected = list(naive_sequence(order, 3))
    assert sequence(order, len(expected) // BATCH).tolist() == expected[: len(expected) // BATCH * BATCH]


def test_any_place_of_any_step():
    order = mixture(global_batch_size=1700)  # a batch lies in two or three blocks
    whole = sequence(order, 6).reshape(6, 1700)
    for step in (5, 0, 3):
        places = np.random.default_rng(step).permutation(1700)[:40].astype(np.int32)
        np.testing.assert_array_equal(order.rows(step, places), whole[step][places])
    assert order.rows(2, np.array([], np.int32)).shape == (0,)


@pytest.mark.parametrize("weights", [(0.25, 0.7, 0.05), (1, 1, 1), (0, 5, 5), (1e-9, 3, 0)])
def test_every_block_has_the_proportions(weights):
    order = mixture(weights=weights, global_batch_size=1000)
    ends = np.cumsum(order.sizes)
    for step in (0, 1, 17, 10**9):
        groups = np.searchsorted(ends, sequence(order, 1, step), side="right")
        assert np.bincount(groups, minlength=3).tolist() == list(order.quotas)


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_group_gives_all_its_rows_before_one_comes_again(shuffle):
    order = mixture(shuffle=shuffle)
    rows = sequence(order, 300)
    first = 0
    for size in order.sizes:
        of_group = rows[(rows >= first) & (rows < first + size)] - first
        whole = len(of_group) // size
        assert whole >= 2
        for epoch in of_group[: whole * size].reshape(whole, size).tolist():
            assert sorted(epoch) == list(range(size))
            assert shuffle or epoch == list(range(size))
        rest = of_group[whole * size :].tolist()
        assert len(set(rest)) == len(rest)
        first += size


def test_rows_of_a_group_are_scattered_over_the_block():
    groups = np.searchsorted([70, 1070], sequence(mixture(), 31), side="right")
    shares = np.bincount(np.flatnonzero(groups == 0) * 4 // 992, minlength=4)
    assert shares.min() > 40 and shares.max() < 85  # of 250, 62 or 63 in each quarter


def test_seeds_blocks_and_epochs_have_their_own_order():
    sequences = [
        tuple(sequence(mixture(seed=seed, global_batch_size=1000), 1, step)) for seed in (0, 1) for step in (0, 1)
    ]
    assert len(set(sequences)) == 4


def test_one_group_is_read_epoch_by_epoch():
    order = mixture(sizes=(50,), weights=(2.0,))
    rows = sequence(order, 50).reshape(32, 50)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(50), (32, 1)))


def test_exclusions_and_seeking_far_away():
    order = mixture()
    assert sequence(dataclasses.replace(order, exclusions=(1, 3)), 3).tolist() == [
        *sequence(order, 1),
        *sequence(order, 1, 2),
        *sequence(order, 1, 4),
    ]
    huge = mixture(sizes=(10**9, 10**6), weights=(0.9, 0.1), global_batch_size=4096)
    places = np.arange(4096, dtype=np.int32)
    huge.rows(0, places)
    tracemalloc.start()
    rows = huge.rows(10**7, places)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20
    assert len(np.unique(rows)) == 4096
    assert 3600 < (rows < 10**9).sum() < 3770


@pytest.mark.parametrize("exclusions", [(), (0,), (2, 3, 40), (0, 1, 5, 6, 7, 90)])
@pytest.mark.parametrize("batch", [1, 32, 1000, 1700])
def test_shares_count_what_is_read(exclusions, batch):
    order = mixture(exclusions=exclusions, global_batch_size=batch)
    ends = np.cumsum(order.sizes)
    for first, last in ((0, 1), (0, 9), (1, 7), (5, 6), (30, 41), (4, 4), (5, 2)):
        rows = sequence(order, last - first, first) if last > first else np.array([], int)
        expected = np.bincount(np.searchsorted(ends, rows, side="right"), minlength=3)
        assert order.shares(first, last).tolist() == expected.tolist()
        assert order.shares(first, last).sum() == max(last - first, 0) * batch


def test_description_is_json_and_fixes_the_rows():
    description = mixture().describe()
    assert json.loads(json.dumps(description)) == description
    assert description["kind"] == "mixture"
    assert (description["sizes"], description["quotas"]) == ([70, 1000, 3], [250, 700, 50])
    assert mixture().num_rows == 1073


def test_groups_must_fit_together():
    with pytest.raises(ValueError, match="3 sizes and 2 weights"):
        mixture(weights=(1, 2))
    with pytest.raises(ValueError, match="without rows has weight"):
        mixture(sizes=(3, 0, 3))
    assert set(sequence(mixture(sizes=(3, 0, 3), weights=(1, 0, 1)), 9)) == set(range(6))


@pytest.mark.parametrize(
    "weights, quotas",
    [
        ((0.7, 0.3), (700, 300)),
        ((0.57, 0.29, 0.14), (570, 290, 140)),
        ((1, 1, 1), (334, 333, 333)),
        ((5, 0, 5), (500, 0, 500)),
        ((1e12, 1e-12), (999, 1)),
        ((0.4, 3000, 0.4, 3000), (1, 499, 1, 499)),
        ((2, 1, 1e-300), (666, 333, 1)),
        ((7,), (1000,)),
    ],
)
def test_quotas(weights, quotas):
    assert block_quotas(weights) == quotas


def test_quotas_are_the_largest_remainders():
    for seed in range(50):
        weights = np.random.default_rng(seed).dirichlet(np.ones(7)) * 10 + 0.02
        due = weights / weights.sum() * 1000
        expected = np.floor(due)
        expected[np.argsort(expected - due)[: 1000 - int(expected.sum())]] += 1
        assert list(block_quotas(weights.tolist())) == expected.tolist()


def test_many_groups_have_a_larger_block():
    quotas = block_quotas([1e6] * 3 + [1.0] * 497)
    assert sum(quotas) == 5000 and quotas[3:] == (1,) * 497
    assert quotas[:3] == (1501, 1501, 1501)


def test_temperature():
    sizes = (10_000, 100, 1)
    assert temperature_weights(sizes, 1) == pytest.approx(np.array(sizes) / sum(sizes), rel=1e-8)
    assert temperature_weights(sizes, 2) == pytest.approx(np.array([100, 10, 1]) / 111, rel=1e-8)
    assert temperature_weights(sizes, math.inf) == pytest.approx((1 / 3,) * 3, rel=1e-8)
    assert temperature_weights((10**12, 1), 1)[1] > 0
    for bad in (0, -1, math.nan):
        with pytest.raises(UserError, match=r"data\.temperature="):
            temperature_weights(sizes, bad)


def test_weights_beat_the_temperature():
    assert mixture_weights((10, 90), (None, None), 1.0) == temperature_weights((10, 90), 1.0)
    assert mixture_weights((10, 90), (3, 1), 5.0) == (3.0, 1.0)
    assert mixture_weights((10, 90), (0, 1), 5.0) == (0.0, 1.0)


@pytest.mark.parametrize(
    "weights, message",
    [
        ((1, None, 2), r"data\.mixture\[1\] has no weight, but others"),
        ((1, -2, 2), r"data\.mixture\[1\] has weight -2: expected 0 or more"),
        ((1, 2, math.nan), r"data\.mixture\[2\] has weight nan"),
        ((math.inf, 2, 1), r"data\.mixture\[0\] has weight inf"),
        ((0, 0, 0), "no source of weight above 0"),
    ],
)
def test_weights_that_are_none(weights, message):
    with pytest.raises(UserError, match=message):
        mixture_weights((10, 10, 10), weights, 1.0)


def windows(first, num_tokens, length=4):
    return TokenWindows(np.arange(first, first + num_tokens), length, keep_tail=True)


def test_concatenated_rows():
    parts = {"a": windows(0, 21), "b": windows(100, 7), "c": windows(200, 40)}
    rows = ConcatenatedSequences(parts)
    assert rows.num_rows == 5 + 2 + 10
    expected = [part.rows(np.arange(part.num_rows)) for part in parts.values()]
    for indices in ([*range(17)], [16, 0, 5, 5, 4, 6, 7], [2, 0], [16], []):
        found = rows.rows(np.array(indices, int))
        for name in ("tokens", "num_tokens"):
            whole = np.concatenate([part[name] for part in expected])
            np.testing.assert_array_equal(found[name], whole[indices], strict=True)
    for bad in ([-1], [0, 17]):
        with pytest.raises(IndexError):
            rows.rows(np.array(bad))


class Labelled:
    num_rows = 3

    def rows(self, indices):
        arrays = windows(0, 13).rows(indices)
        return arrays | {"label": np.zeros(len(indices), np.int32)}


def test_sources_must_give_the_same_arrays():
    message = r"wiki gives num_tokens \[\] int32, tokens \[5\] int32, code gives .*"
    with pytest.raises(UserError, match=message + r"tokens \[7\] int32"):
        ConcatenatedSequences({"wiki": windows(0, 20), "code": windows(0, 20, 6)})
    with pytest.raises(UserError, match=message + r"label \[\] int32"):
        ConcatenatedSequences({"wiki": windows(0, 20), "code": Labelled()})
