import os
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdp.data import block_file
from jaxdp.data.block_checksums import write_block_checksums
from jaxdp.data.sequences.element_arrays import open_disk_array
from jaxdp.data.sequences.flat import RaggedArray, ShardedArray, as_flat

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
    elements, lengths = ragged.take(np.array([2, 3]), max_length=2)
    assert lengths.tolist() == [2, 1] and elements.tolist() == [*parts[2][:2], *parts[3]]


@pytest.fixture(params=["kept in memory", "read anew"])
def memory(request, monkeypatch):
    """Both ways of reading a file."""
    monkeypatch.setattr(block_file, "MEMORY_BYTES", 1 << 40 if request.param == "kept in memory" else 0)


@pytest.mark.parametrize("sizes", CUTS)
def test_files_read_as_the_same_array_in_memory(tmp_path, memory, sizes):
    whole = np.arange(1000, 1100, dtype=np.uint16)
    shards = shards_of(whole, sizes)
    for number, shard in enumerate(shards):
        shard.tofile(tmp_path / str(number))
    on_disk = ShardedArray([open_disk_array(tmp_path / str(number), np.uint16) for number in range(len(shards))])
    in_memory = ShardedArray([whole])
    rng = np.random.default_rng(0)
    for length in (0, 1, 7, 60, 100):
        starts = rng.integers(0, 101 - length, 50)
        np.testing.assert_array_equal(on_disk.take(starts, length), in_memory.take(starts, length), strict=True)
    starts = rng.integers(0, 101, 200)
    lengths = rng.integers(0, 101 - starts)
    np.testing.assert_array_equal(
        on_disk.take_ragged(starts, lengths), in_memory.take_ragged(starts, lengths), strict=True
    )


def test_ten_gigabytes(tmp_path):
    path = tmp_path / "sparse.bin"
    path.touch()
    os.truncate(path, 10 * 2**30)
    with open(path, "r+b") as file:
        file.seek(10 * 2**30 - 6)
        file.write(np.array([1, 2, 3], np.uint16).tobytes())
    half = 5 * 2**30 // 2
    tokens = open_disk_array(path, np.uint16)
    for sharded in (tokens, ShardedArray([tokens]), ShardedArray([tokens.part(0, half), tokens.part(half, 2 * half)])):
        assert len(sharded) == 5 * 2**30
        assert sharded.take(np.array([len(sharded) - 4, half - 2, 0]), 4).tolist() == [
            [0, 1, 2, 3],
            [0, 0, 0, 0],
            [0, 0, 0, 0],
        ]


def resident_bytes():
    """What this process has in memory, as Linux counts it."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
@pytest.mark.parametrize("checked", [False, True])
def test_what_was_read_does_not_stay(tmp_path, monkeypatch, checked):
    monkeypatch.setattr(block_file, "MEMORY_BYTES", 4 * 2**20)
    path = tmp_path / "tokens.bin"
    np.arange(32 * 2**20, dtype=np.uint16).tofile(path)
    write_block_checksums(path)
    tokens = open_disk_array(path, np.uint16, entry=tmp_path if checked else None)
    sharded = ShardedArray([tokens.part(0, 2**24), tokens.part(2**24, 2**25)])
    before = resident_bytes()
    for start in range(0, len(sharded), 2**20):
        assert (np.diff(sharded.take(np.array([start]), 2**20).astype(int)) % 2**16 == 1).all()
        sharded.take_ragged(np.array([start]), np.array([2**20]))
        assert resident_bytes() < before + 40 * 2**20  # of the test's own int64 and of freed memory
    assert sharded.take(np.array([0]), 3).tolist() == [[0, 1, 2]]
