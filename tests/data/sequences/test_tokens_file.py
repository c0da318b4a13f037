import hashlib

import numpy as np
import pytest

from jaxdp.data.sequences.element_arrays import DiskArray
from jaxdp.data.sequences.tokens_file import (
    CheckedWindows,
    fingerprint_tokens,
    open_token_splits,
    open_tokens,
)
from jaxdp.data.sequences.windows import TokenWindows
from jaxdp.errors import UserError


def write(path, ids, dtype):
    np.asarray(ids, dtype).tofile(path)
    return str(path)


def test_the_name_gives_the_dtype(tmp_path):
    short = open_tokens(write(tmp_path / "a.bin", [1, 2, 65535], "<u2"))
    assert short.tokens.dtype == np.uint16 and short.tokens.to_numpy().tolist() == [1, 2, 65535]
    long = open_tokens(write(tmp_path / "a.u32.bin", [1, 70000], "<u4"))
    assert long.tokens.dtype == np.uint32 and long.tokens.to_numpy().tolist() == [1, 70000]
    assert isinstance(long.tokens, DiskArray)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.bin", b"123", r"a\.bin has 3 bytes.*uint16"),
        ("a.u32.bin", b"123456", r"6 bytes.*uint32"),
        ("a.bin", b"", r"a\.bin is empty"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_tokens(str(tmp_path / name))


def test_missing_file_and_path(tmp_path):
    with pytest.raises(UserError, match=r"a\.bin does not exist"):
        open_token_splits(str(tmp_path / "a.bin"), 0.1)
    with pytest.raises(UserError, match=r"needs data\.path"):
        open_token_splits(None, 0.1)


def test_last_part_of_one_file_is_held_out(tmp_path):
    path = write(tmp_path / "a.bin", np.arange(100), "<u2")
    train, evaluation = open_token_splits(path, 0.2)
    assert train.tokens.to_numpy().tolist() == list(range(80))
    assert evaluation.tokens.to_numpy().tolist() == list(range(80, 100))
    assert (train.first_position, evaluation.first_position) == (0, 80)


@pytest.mark.parametrize("suffix, dtype", [(".bin", "<u2"), (".u32.bin", "<u4")])
def test_folder_of_two(tmp_path, suffix, dtype):
    write(tmp_path / f"train{suffix}", [1, 2, 3], dtype)
    write(tmp_path / f"val{suffix}", [4, 5], dtype)
    train, evaluation = open_token_splits(str(tmp_path), 0.5)
    assert (train.tokens.to_numpy().tolist(), evaluation.tokens.to_numpy().tolist()) == ([1, 2, 3], [4, 5])


def test_folder_must_hold_one_pair(tmp_path):
    write(tmp_path / "train.bin", [1], "<u2")
    with pytest.raises(UserError, match=r"train\.bin and val\.bin.*found 0"):
        open_token_splits(str(tmp_path), 0.1)
    write(tmp_path / "val.bin", [1], "<u2")
    write(tmp_path / "train.u32.bin", [1], "<u4")
    write(tmp_path / "val.u32.bin", [1], "<u4")
    with pytest.raises(UserError, match="found 2"):
        open_token_splits(str(tmp_path), 0.1)


def test_fingerprint_reads_both_ends(tmp_path):
    mib = 1 << 20
    content = np.random.default_rng(0).integers(0, 256, 3 * mib, np.uint8)
    path = tmp_path / "a.bin"

    def fingerprint(changed_byte=None):
        edited = content.copy()
        if changed_byte is not None:
            edited[changed_byte] ^= 1
        path.write_bytes(edited.tobytes())
        return fingerprint_tokens(open_token_splits(str(path), 0.1))

    ends = content[:mib].tobytes() + content[-mib:].tobytes()
    original = fingerprint()
    assert original == hashlib.sha256(f"a.bin/{3 * mib}/".encode() + ends).hexdigest()
    assert fingerprint(0) != original != fingerprint(3 * mib - 1)
    path.write_bytes(content[:-2].tobytes())
    assert fingerprint_tokens(open_token_splits(str(path), 0.1)) != original


@pytest.mark.parametrize("suffix, dtype, bad", [(".bin", "<u2", 50), (".u32.bin", "<u4", 2**32 - 1)])
def test_ids_are_checked_where_they_are_read(tmp_path, suffix, dtype, bad):
    ids = np.arange(100) % 50
    ids[93] = bad
    path = write(tmp_path / f"a{suffix}", ids, dtype)
    _, evaluation = open_token_splits(path, 0.5)
    plain = TokenWindows(evaluation.tokens, 5, keep_tail=True)
    windows = CheckedWindows(plain, evaluation, vocab_size=50)
    assert windows.num_rows == 10
    np.testing.assert_array_equal(windows.rows([2, 0])["tokens"], [ids[60:66], ids[50:56]])
    with pytest.raises(UserError, match=rf"a{suffix} has token id {bad} at position 93.*size 50"):
        windows.rows([1, 8])
