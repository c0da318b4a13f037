import numpy as np
import pytest

from jaxdp.data.sequences.flat import RaggedArray, ShardedArray
from jaxdp.data.sequences.long_documents import skips_before_learned
from jaxdp.data.sequences.padded import PaddedSequences
from jaxdp.errors import UserError

TEXTS = [[5, 6, 7], [], [8], [1, 2, 3, 4, 5], [9, 9, 9, 9]]
TARGETS = [[1], [2, 3, 4], [], [6], [7, 8]]
LABELS = np.array([3, 1, 4, 1, 5], np.int16)


def ragged(parts, num_shards=2):
    offsets = np.append(0, np.cumsum([len(part) for part in parts]))
    flat = np.concatenate(parts).astype(np.uint16)
    return RaggedArray(ShardedArray(np.array_split(flat, num_shards)), offsets)


def padded(length=5, target_length=3, **options):
    arrays = {"tokens": ragged(TEXTS), "target_tokens": ragged(TARGETS), "label": LABELS}
    return PaddedSequences(arrays, {"tokens": length, "target_tokens": target_length}, **options)


def rows_of(parts, length):
    return [[*part, *[0] * length][:length] for part in parts]


@pytest.mark.parametrize("indices", [[0, 1, 2, 3, 4], [3, 3, 0], []])
def test_rows(indices):
    source = padded()
    assert (source.num_rows, source.num_cut, source.num_dropped) == (5, 0, 0)
    rows = source.rows(np.array(indices, int))
    texts, targets = ([parts[i] for i in indices] for parts in (TEXTS, TARGETS))
    assert rows["tokens"].tolist() == rows_of(texts, 5)
    assert rows["num_tokens"].tolist() == [len(text) for text in texts]
    assert rows["target_tokens"].tolist() == rows_of(targets, 3)
    assert rows["num_target_tokens"].tolist() == [len(target) for target in targets]
    np.testing.assert_array_equal(rows["label"], LABELS[indices], strict=True)
    tokens = ("tokens", "num_tokens", "target_tokens", "num_target_tokens")
    assert {rows[name].dtype for name in tokens} == {np.dtype(np.int32)}
    assert rows["tokens"].shape == (len(indices), 5)


def test_cut_keeps_the_first_tokens():
    source = padded(4, 2, long_documents="cut")
    assert (source.num_rows, source.num_cut, source.num_dropped) == (5, 2, 0)
    rows = source.rows(np.arange(5))
    assert rows["tokens"].tolist() == rows_of(TEXTS, 4)
    assert rows["num_tokens"].tolist() == [3, 0, 1, 4, 4]
    assert rows["target_tokens"].tolist() == rows_of(TARGETS, 2)
    assert rows["num_target_tokens"].tolist() == [1, 2, 0, 1, 2]
    assert (source.num_tokens(), source.num_tokens("target_tokens")) == (12, 6)


def test_cut_can_leave_out_first_tokens():
    source = PaddedSequences({"tokens": ragged(TEXTS)}, {"tokens": 3}, "cut", np.array([0, 0, 0, 2, 1]))
    rows = source.rows(np.array([4, 0, 3]))
    assert rows["tokens"].tolist() == [[9, 9, 9], [5, 6, 7], [3, 4, 5]]
    assert rows["num_tokens"].tolist() == [3, 3, 3]
    masks = ragged([[0, 0, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1, 1]])
    assert skips_before_learned(masks, 3, 1).tolist() == [0, 0, 2, 0, 2]
    assert skips_before_learned(masks, 3, 0).tolist() == [0, 1, 2, 0, 2]
    assert skips_before_learned(masks, 4, 1).tolist() == [0, 0, 1, 0, 1]


def test_drop_leaves_the_whole_example_out():
    source = padded(4, 2, long_documents="drop")  # example 1 for its target, 3 for its text
    assert (source.num_rows, source.num_cut, source.num_dropped) == (3, 0, 2)
    rows = source.rows(np.array([2, 0, 1]))
    assert rows["tokens"].tolist() == rows_of([TEXTS[4], TEXTS[0], TEXTS[2]], 4)
    assert rows["label"].tolist() == [5, 3, 4]
    assert source.column("label").tolist() == [3, 4, 5]
    assert (source.num_tokens(), source.num_tokens("target_tokens")) == (8, 3)


def test_column_of_all():
    assert padded().column("label") is LABELS


def test_long_examples_are_an_error():
    with pytest.raises(UserError, match=r"2 of 5 .*data\.length=3 .*document 3 .*with 5.*raise data\.length"):
        padded(3)
    with pytest.raises(UserError, match=r"1 of 5 .*data\.target_length=2 .*document 1 .*with 3"):
        padded(5, 2)
    with pytest.raises(UserError, match=r"data\.long_documents='no'"):
        padded(long_documents="no")
    with pytest.raises(UserError, match=r"None of 2 examples is left: 2 have more"):
        PaddedSequences({"tokens": ragged([[1, 2], [3, 4]])}, {"tokens": 1}, "drop")


@pytest.mark.parametrize("bad", [[-1], [0, 3]])
def test_rows_that_are_not_there(bad):
    with pytest.raises(IndexError):
        padded(4, 2, long_documents="drop").rows(np.array(bad))


def test_arrays_must_be_of_the_same_examples():
    with pytest.raises(ValueError, match="'tokens': 5, 'label': 4"):
        PaddedSequences({"tokens": ragged(TEXTS), "label": LABELS[:4]}, {"tokens": 9})
