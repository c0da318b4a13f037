import tracemalloc

import numpy as np
import pytest

from jaxdp.data.sequences import packing
from jaxdp.data.sequences.element_arrays import DiskArray
from jaxdp.data.sequences.flat import ShardedArray
from jaxdp.data.sequences.packing import PackedSequences, PackPlan, pack
from jaxdp.errors import UserError

END = 0  # of text; tokens are 1, 2, 3, ... all over the corpus, so each is told from every other


def corpus(lengths, num_shards=1):
    """Documents of these lengths, end of text included, as one flat array."""
    ends = np.cumsum(lengths)
    tokens = np.arange(1, ends[-1] + 1)
    tokens[ends - 1] = END
    return ShardedArray(np.array_split(tokens, num_shards))


def naive_first_fit(lengths, length):
    rows = []
    for document, needed in enumerate(lengths):
        for row in rows:
            if sum(lengths[other] for other in row) + needed <= length:
                row.append(document)
                break
        else:
            rows.append([document])
    return rows


def documents_of(plan, lengths):
    """Documents of each row; only where none was cut."""
    number = {start: i for i, start in enumerate((np.cumsum(lengths) - lengths).tolist())}
    parts = np.split(plan.starts, plan.row_offsets[1:-1])
    return [[number[start] for start in part.tolist()] for part in parts]


def segments_of(rows):
    """(inputs, targets, positions) of each segment, in order; checks that padding is empty."""
    for i in range(len(rows["tokens"])):
        ids = rows["segment_ids"][i]
        names = ("tokens", "targets", "positions", "segment_ids")
        assert not any(rows[name][i, rows["num_tokens"][i] :].any() for name in names)
        assert (ids[: rows["num_tokens"][i]] > 0).all()
        for segment in range(1, ids.max() + 1):
            here = np.flatnonzero(ids == segment)
            assert (np.diff(here) == 1).all()
            yield tuple(rows[name][i, here].tolist() for name in names[:3])


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize("seed", range(20))
def test_is_first_fit(seed, chunk, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK_DOCUMENTS", chunk)
    rng = np.random.default_rng(seed)
    length = int(rng.integers(1, 40))
    lengths = rng.integers(1, length + 1, rng.integers(1, 120))
    plan = pack(lengths, length)
    rows = naive_first_fit(lengths.tolist(), length)
    assert documents_of(plan, lengths) == rows
    assert plan.num_rows == len(rows)
    assert plan.num_tokens == lengths.sum()
    assert plan.efficiency == pytest.approx(lengths.sum() / (len(rows) * length))


def test_memory_follows_the_documents_and_not_the_length_of_a_row():
    lengths = np.array([5, 3, 7])
    tracemalloc.start()
    plan = pack(lengths, 10_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert documents_of(plan, lengths) == naive_first_fit(lengths.tolist(), 10_000_000) and peak < 1_000_000


@pytest.mark.parametrize("length", [14, 15, 16, 29, 30, 31])
def test_rows_about_as_long_as_all_documents(length):
    lengths = np.array([5, 3, 7, 1, 14])
    assert documents_of(pack(lengths, length), lengths) == naive_first_fit(lengths.tolist(), length)


def test_rows_are_in_the_order_of_their_first_document():
    plan = pack(np.array([3, 4, 1, 5, 2, 2]), 5)
    assert documents_of(plan, [3, 4, 1, 5, 2, 2]) == [[0, 2], [1], [3], [4, 5]]


def test_one_row():
    lengths = np.array([3, 1, 2])  # the second is an empty text
    rows = PackedSequences(pack(lengths, 8), corpus(lengths)).rows(np.array([0]))
    assert {name: array.tolist() for name, array in rows.items()} == {
        "tokens": [[END, 1, 2, END, END, 5, 0, 0]],
        "targets": [[1, 2, END, END, 5, END, 0, 0]],
        "segment_ids": [[1, 1, 1, 2, 3, 3, 0, 0]],
        "positions": [[0, 1, 2, 0, 0, 1, 0, 0]],
        "num_tokens": [6],
    }
    assert {array.dtype for array in rows.values()} == {np.dtype(np.int32)}


@pytest.mark.parametrize("num_shards", [1, 5])
@pytest.mark.parametrize("long_documents", ["cut", "drop", "error"])
def test_every_token_is_a_target_once(long_documents, num_shards):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 17 if long_documents == "error" else 60, 300)
    flat = corpus(lengths, num_shards)
    plan = pack(lengths, 16, long_documents)
    packed = PackedSequences(plan, flat)
    rows = packed.rows(np.arange(packed.num_rows))
    segments = list(segments_of(rows))

    expected = []  # written from the definition
    tokens = flat.take([0], len(flat))[0]
    for start, n in zip(np.cumsum(lengths) - lengths, lengths, strict=True):
        document = tokens[start : start + n].tolist()
        if n > 16 and long_documents == "drop":
            continue
        inputs = [END, *document[:-1]]
        for at in range(0, n, 16):
            size = min(16, n - at)
            piece = (inputs[at : at + size], document[at : at + size], list(range(size)))
            expected.append(piece)
    assert sorted(segments) == sorted(expected)
    assert sum(len(targets) for _, targets, _ in segments) == plan.num_tokens
    is_long = np.count_nonzero(lengths > 16)
    assert plan.num_cut == (is_long if long_documents == "cut" else 0)
    assert plan.num_dropped == (is_long if long_documents == "drop" else 0)


def test_any_rows_in_any_order():
    lengths = np.random.default_rng(3).integers(1, 20, 200)
    packed = PackedSequences(pack(lengths, 20), corpus(lengths, 3))
    whole = packed.rows(np.arange(packed.num_rows))
    indices = np.array([5, 0, 5, packed.num_rows - 1])
    for name, array in packed.rows(indices).items():
        np.testing.assert_array_equal(array, whole[name][indices], strict=True)
    assert packed.rows(np.array([], int))["tokens"].shape == (0, 20)
    for bad in ([-1], [0, packed.num_rows]):
        with pytest.raises(IndexError):
            packed.rows(np.array(bad))


def test_saved_and_read_from_disk(tmp_path):
    lengths = np.random.default_rng(3).integers(1, 50, 200)
    plan = pack(lengths, 20, "cut")
    plan.save(tmp_path)
    loaded = PackPlan.load(tmp_path)
    assert (loaded.length, loaded.num_cut, loaded.num_dropped) == (20, plan.num_cut, 0)
    assert loaded.num_cut > 0 and loaded.efficiency == plan.efficiency
    for name in packing.PLAN_ARRAYS:
        assert isinstance(getattr(loaded, name), DiskArray)
        np.testing.assert_array_equal(getattr(loaded, name).to_numpy(), getattr(plan, name), strict=True)
    flat = corpus(lengths)
    indices = np.arange(plan.num_rows)[::-1]
    rows, expected = (PackedSequences(p, flat).rows(indices) for p in (loaded, plan))
    for name, array in rows.items():
        np.testing.assert_array_equal(array, expected[name], strict=True)


def test_long_documents_are_an_error():
    lengths = np.array([3, 9, 4, 12, 5])
    message = r"2 of 5 documents .*data\.length=8 .*document 3 .*with 12: .* cut or drop"
    with pytest.raises(UserError, match=message):
        pack(lengths, 8)
    assert pack(lengths, 12).num_rows == 3
    with pytest.raises(UserError, match=r"data\.long_documents='split'.*error, cut, drop"):
        pack(lengths, 8, "split")
    with pytest.raises(UserError, match=r"data\.length=0"):
        pack(lengths, 0)


def test_nothing_to_pack():
    with pytest.raises(UserError, match=r"None of 2 documents.*2 are longer than data\.length=8"):
        pack(np.array([9, 10]), 8, "drop")
    with pytest.raises(UserError, match="None of 0"):
        pack(np.array([], np.int64), 8)
    assert pack(np.array([0, 3, 0]), 8).lengths.tolist() == [3]  # without even an end of text
