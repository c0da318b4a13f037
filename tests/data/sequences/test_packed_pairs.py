"""Packed pairs: nothing lost, nothing mixed up, first fit as it is defined."""

import itertools

import numpy as np
import pytest

from jaxdp.data.sequences import packed_pairs
from jaxdp.data.sequences.flat import RaggedArray, as_flat
from jaxdp.data.sequences.packed_pairs import PackedPairs, pack_pairs

PLACES, START = (12, 9), 99


def ragged(arrays):
    return RaggedArray(as_flat(np.concatenate(arrays)), np.append(0, np.cumsum([len(each) for each in arrays])))


def random_pairs(num_pairs, seed=0, longest=(8, 9)):
    """Every token is a number of its own."""
    random = np.random.default_rng(seed)
    lengths = [random.integers(1, most + 1, num_pairs) for most in longest]
    ends = [np.cumsum(each) for each in lengths]
    sides = [
        [np.arange(end - length, end) + base for end, length in zip(*pair, strict=True)]
        for pair, base in zip(zip(ends, lengths, strict=True), (1000, 5000), strict=True)
    ]
    return lengths, sides


def first_fit(lengths, places, num_open):
    """The rows as lists of pairs, by the definition."""
    rows, room = [], []
    for pair, sizes in enumerate(zip(*lengths, strict=True)):
        sizes = np.minimum(sizes, places)
        for row in range(max(0, len(rows) - num_open), len(rows)):
            if (room[row] >= sizes).all():
                break
        else:
            row = len(rows)
            rows.append([])
            room.append(np.array(places))
        rows[row].append(pair)
        room[row] = room[row] - sizes
    return rows


@pytest.mark.parametrize("num_open", [1, 3, 7, 1000])
def test_a_plan_is_first_fit_among_the_open_rows(num_open, monkeypatch):
    monkeypatch.setattr(packed_pairs, "MAX_OPEN_ROWS", num_open)
    lengths, _ = random_pairs(300)
    plan = pack_pairs(*lengths, PLACES)
    rows = [plan.pairs[begin:end].tolist() for begin, end in itertools.pairwise(plan.row_offsets)]
    assert rows == first_fit(lengths, PLACES, num_open)
    assert plan.num_tokens == tuple(each.sum() for each in lengths)
    shares = [each.sum() / (len(rows) * places) for each, places in zip(lengths, PLACES, strict=True)]
    assert plan.efficiency == pytest.approx(shares)


def test_every_pair_stands_in_one_row_by_itself():
    lengths, (sources, targets) = random_pairs(200, seed=1, longest=(14, 11))
    kept = np.flatnonzero(np.arange(200) % 7 > 0)
    plan = pack_pairs(*lengths, PLACES, kept)
    source = PackedPairs(plan, ragged(sources), ragged(targets), START)
    rows = source.rows(np.arange(source.num_rows))
    assert all(array.dtype == np.int32 for array in rows.values())
    found = []
    for row in range(source.num_rows):
        segments = rows["segment_ids"][row]
        for segment in range(1, segments.max() + 1):
            here, there = segments == segment, rows["target_segment_ids"][row] == segment
            target = rows["targets"][row][there].tolist()
            assert rows["target_tokens"][row][there].tolist() == [START, *target[:-1]]
            assert rows["positions"][row][here].tolist() == list(range(here.sum()))
            assert rows["target_positions"][row][there].tolist() == list(range(there.sum()))
            found.append((rows["tokens"][row][here].tolist(), target))
        for name, number in (("tokens", "num_tokens"), ("targets", "num_target_tokens")):
            assert (rows[name][row] > 0).sum() == rows[number][row]
            assert not rows[name][row][rows[number][row] :].any()
    expected = [(sources[pair][:12].tolist(), targets[pair][:9].tolist()) for pair in kept]
    assert sorted(found) == sorted(expected)


def test_rows_come_by_number():
    lengths, (sources, targets) = random_pairs(60)
    source = PackedPairs(pack_pairs(*lengths, PLACES), ragged(sources), ragged(targets), START)
    whole = source.rows(np.arange(source.num_rows))
    some = source.rows(np.array([5, 2, 5]))
    for name, array in whole.items():
        np.testing.assert_array_equal(some[name], array[[5, 2, 5]])
    assert source.rows(np.zeros(0, int))["tokens"].shape == (0, 12)
    for index in (-1, source.num_rows):
        with pytest.raises(IndexError, match=f"of {source.num_rows}"):
            source.rows(np.array([index]))
