"""Digest of a file, whole or of both ends."""

import hashlib

import pytest

from jaxdp.data.file_digest import END_BYTES, file_digest

MIB = 1 << 20


@pytest.mark.parametrize("size", [0, 7, MIB, MIB + 1, 2 * MIB, 2 * MIB + 5])
def test_digest_is_of_size_and_content(tmp_path, size):
    content = bytes(i * 7 % 251 for i in range(size))
    (tmp_path / "file").write_bytes(content)
    head = size.to_bytes(8, "little")
    assert file_digest(tmp_path / "file") == hashlib.sha256(head + content).hexdigest()
    ends = content if size <= 2 * END_BYTES else content[:END_BYTES] + content[-END_BYTES:]
    assert file_digest(tmp_path / "file", ends_only=True) == hashlib.sha256(head + ends).hexdigest()


def test_digests_of_a_fixed_file(tmp_path):
    """The cache records such digests: they must not change."""
    (tmp_path / "file").write_bytes(bytes(i * 7 % 256 for i in range(2_500_000)))
    assert file_digest(tmp_path / "file") == "e6f3b6ab220eef749668c6b937316ee3e5c89e4fc1aca2757863f892136e8ee8"
    assert (
        file_digest(tmp_path / "file", ends_only=True)
        == "b8def53495af99210ab749f3b5a93a59407965ec76076da4db64f25a120153d0"
    )


def test_a_folder_has_no_digest(tmp_path):
    with pytest.raises(OSError):
        file_digest(tmp_path)
