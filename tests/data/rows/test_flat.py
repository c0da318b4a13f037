import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdp.data.rows import flat
from jaxdp.data.rows.flat import RaggedArray, ShardedArray, as_flat

CUTS = [[100], [40, 60], [0, 1, 2, 97], [33, 33, 34, 0], [1] * 100]


def shards_of(array, sizes):
    return np.split(array, np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("sizes", CUTS)
def test_shards_read_as_one_array(sizes):
    whole = np.arange(1000, 1100, dtype=np.uint16)
    sharded = ShardedArray(shards_of(whole, sizes))
    assert len(sharded) == 100 and sharded.dtype == np.uint16
    for length in (0, 1, 2, 7, 34, 99, 100):
        starts = np.random.default_rng(length).permutation(101 - length)
        runs = sharded.take(starts, length)
        assert runs.dtype == np.uint16 and runs.shape == (101 - length, length)
        np.testing.assert_array_equal(runs, whole[starts[:, None] + np.arange(length)])


@pytest.mark.parametrize("sizes", CUTS)
def test_ragged_runs(sizes):
    whole = np.arange(1000, 1100, dtype=np.int32)
    sharded = ShardedArray(shards_of(whole, sizes))
    rng = np.random.default_rng(0)
    starts = rng.integers(0, 101, 200)
    lengths = rng.integers(0, 101 - starts)
    runs = sharded.take_ragged(starts, lengths)
    expected = [whole[start : start + n] for start, n in zip(starts, lengths, strict=True)]
    np.testing.assert_array_equal(runs, np.concatenate(expected), strict=True)


def test_nothing_to_take():
    for sharded in (ShardedArray([np.arange(3)]), ShardedArray([np.arange(0)])):
        none = np.array([], np.int64)
        assert sharded.take(none, 5).shape == (0, 5)
        assert sharded.take_ragged(none, none).shape == (0,)


@pytest.mark.parametrize("start, length", [(-1, 2), (4, 2), (0, 6), (6, 0)])
def test_runs_that_reach_outside(start, length):
    sharded = ShardedArray([np.arange(2), np.arange(3)])
    with pytest.raises(IndexError):
        sharded.take(np.array([0, start]), length)
    with pytest.raises(IndexError):
        sharded.take_ragged(np.array([0, start]), np.array([1, length]))


def test_shards_must_be_alike():
    with pytest.raises(ValueError, match="one dtype"):
        ShardedArray([np.zeros(2, np.uint16), np.zeros(2, np.uint32)])
    with pytest.raises(ValueError, match=r"\[n\] arrays"):
        ShardedArray([np.zeros((2, 2))])


def test_a_plain_array_is_a_shard():
    array = np.arange(10)[::-2]  # not contiguous
    assert as_flat(array).take([1], 3).tolist() == [[7, 5, 3]]
    sharded = ShardedArray([array])
    assert as_flat(sharded) is sharded


def test_ragged_array():
    parts = [np.arange(start, start + size) for start, size in enumerate([3, 0, 5, 1])]
    ragged = RaggedArray(ShardedArray([np.concatenate(parts)]), np.array([0, 3, 3, 8, 9], np.int32))
    assert len(ragged) == 4 and ragged.lengths().tolist() == [3, 0, 5, 1]
    elements, lengths = ragged.take(np.array([2, 1, 0, 2]))
    assert lengths.tolist() == [5, 0, 3, 5] and lengths.dtype == np.int64
    assert elements.tolist() == [*parts[2], *parts[0], *parts[2]]
    elements, lengths = ragged.take(np.array([2, 3]), most=2)
    assert lengths.tolist() == [2, 1] and elements.tolist() == [*parts[2][:2], *parts[3]]


def test_ten_gigabytes(tmp_path):
    path = tmp_path / "sparse.bin"
    path.touch()
    os.truncate(path, 10 * 2**30)
    with open(path, "r+b") as file:
        file.seek(10 * 2**30 - 6)
        file.write(np.array([1, 2, 3], np.uint16).tobytes())
    half = 5 * 2**30 // 2
    tokens = np.memmap(path, np.uint16, mode="r")
    for sharded in (ShardedArray([tokens]), ShardedArray([tokens[:half], tokens[half:]])):
        assert len(sharded) == 5 * 2**30
        assert sharded.take([len(sharded) - 4, half - 2, 0], 4).tolist() == [
            [0, 1, 2, 3],
            [0, 0, 0, 0],
            [0, 0, 0, 0],
        ]


def resident_bytes(path):
    """What of a mapped file is in this process's memory, as Linux counts it."""
    total, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            here = line.endswith(str(path))
        elif here and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
def test_pages_that_were_read_do_not_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(flat, "RESIDENT_BYTES", 4 * 2**20)
    monkeypatch.setattr(flat, "RUNS_A_LOOK", 1)
    path = tmp_path / "tokens.bin"
    np.arange(16 * 2**20, dtype=np.uint16).tofile(path)
    tokens = np.memmap(path, np.uint16, mode="r")
    ends = ShardedArray([tokens[: 2**23], tokens[2**23 :]])
    for start in range(0, len(ends), 2**20):
        assert (np.diff(ends.take([start], 2**20).astype(int)) % 2**16 == 1).all()
        assert resident_bytes(path) < 8 * 2**20
        ends.take_ragged([start], [2**20])
    assert ends.take([0], 3).tolist() == [[0, 1, 2]]


def test_a_copy_that_was_written_to_is_never_unmapped(tmp_path, monkeypatch):
    monkeypatch.setattr(flat, "RESIDENT_BYTES", -(2**40))
    monkeypatch.setattr(flat, "RUNS_A_LOOK", 1)
    path = tmp_path / "tokens.bin"
    np.zeros(4, np.uint16).tofile(path)
    tokens = np.memmap(path, np.uint16, mode="c")
    tokens[:] = [1, 2, 3, 4]
    view = tokens[:3]
    view.flags.writeable = False
    sharded = ShardedArray([view])
    for _ in range(2):
        assert sharded.take([0], 3).tolist() == [[1, 2, 3]]
    assert isinstance(tokens.base, mmap.mmap)
