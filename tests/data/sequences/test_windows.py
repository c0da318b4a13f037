import numpy as np
import pytest

from jaxdp.data.sequences.element_arrays import open_disk_array
from jaxdp.data.sequences.flat import ShardedArray
from jaxdp.data.sequences.windows import TokenWindows
from jaxdp.errors import UserError


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("num_tokens", [5, 6, 8, 9, 10, 41])
def test_training_rows(num_tokens, dtype):
    tokens = np.arange(1, num_tokens + 1, dtype=dtype)
    windows = TokenWindows(tokens, 4, keep_tail=False)
    expected = [tokens[start : start + 5].tolist() for start in range(0, num_tokens, 4) if start + 5 <= num_tokens]
    rows = windows.rows(np.arange(windows.num_rows))
    assert rows["tokens"].tolist() == expected
    assert rows["num_tokens"].tolist() == [5] * len(expected)
    assert rows["tokens"].dtype == rows["num_tokens"].dtype == np.int32


@pytest.mark.parametrize("num_tokens", range(2, 15))
def test_evaluation_predicts_every_token_once(num_tokens):
    tokens = np.arange(1, num_tokens + 1)
    windows = TokenWindows(tokens, 4, keep_tail=True)
    rows = windows.rows(np.arange(windows.num_rows))
    targets = []
    for row, count in zip(rows["tokens"], rows["num_tokens"], strict=True):
        assert count >= 2 and not row[count:].any()
        targets += row[1:count].tolist()
    assert targets == tokens[1:].tolist()


def test_any_order_and_repeats():
    windows = TokenWindows(np.arange(20), 3, keep_tail=True)
    rows = windows.rows(np.array([6, 0, 6, 2]))
    assert rows["tokens"].tolist() == [[18, 19, 0, 0], [0, 1, 2, 3], [18, 19, 0, 0], [6, 7, 8, 9]]
    assert rows["num_tokens"].tolist() == [2, 4, 2, 4]


@pytest.mark.parametrize("keep_tail", [True, False])
@pytest.mark.parametrize("on_disk", [True, False])
def test_shards_read_as_one_array(tmp_path, on_disk, keep_tail):
    tokens = np.random.default_rng(0).integers(0, 2**16, 1000, np.uint16)
    shards = np.split(tokens, [3, 500, 507])
    if on_disk:
        for i, shard in enumerate(shards):
            shard.tofile(tmp_path / f"{i}.bin")
        shards = [open_disk_array(tmp_path / f"{i}.bin", np.uint16) for i in range(4)]
    whole = TokenWindows(tokens, 16, keep_tail)
    sharded = TokenWindows(ShardedArray(shards), 16, keep_tail)
    assert sharded.num_rows == whole.num_rows == (63 if keep_tail else 62)
    indices = np.random.default_rng(1).permutation(whole.num_rows)
    rows, expected = sharded.rows(indices), whole.rows(indices)
    for name in ("tokens", "num_tokens"):
        np.testing.assert_array_equal(rows[name], expected[name], strict=True)


@pytest.mark.parametrize("keep_tail", [True, False])
@pytest.mark.parametrize("num_tokens", [9, 10, 20])
def test_the_first_tokens_alone(num_tokens, keep_tail):
    some = TokenWindows(np.arange(20), 4, keep_tail, num_tokens=num_tokens)
    expected = TokenWindows(np.arange(num_tokens), 4, keep_tail)
    assert some.num_rows == expected.num_rows
    indices = np.arange(some.num_rows)
    np.testing.assert_array_equal(some.rows(indices)["tokens"], expected.rows(indices)["tokens"])


@pytest.mark.parametrize("bad", [[-1], [0, 5]])
def test_rows_that_are_not_there(bad):
    with pytest.raises(IndexError):
        TokenWindows(np.arange(21), 4, keep_tail=True).rows(np.array(bad))


def test_too_few_tokens():
    with pytest.raises(UserError, match=r"training split has 4 tokens.*which takes 5"):
        TokenWindows(np.arange(4), 4, keep_tail=False)
    with pytest.raises(UserError, match=r"evaluation split has 1 tokens.*which takes 2"):
        TokenWindows(np.arange(1), 4, keep_tail=True)
    with pytest.raises(UserError, match=r"data\.length=0"):
        TokenWindows(np.arange(4), 0, keep_tail=False)
