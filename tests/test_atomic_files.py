"""Atomic replacement of files."""

import errno
import os

import pytest

from jaxdp.atomic_files import atomic_replacement, write_atomically


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "labels.json"
    write_atomically(path, "ä")
    assert path.read_bytes() == "ä".encode()

    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_bytes() == "ä".encode() and list(tmp_path.iterdir()) == [path]


def test_an_exception_in_the_block_keeps_the_old_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_replacement(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_leftover_is_not_written_through(tmp_path):
    """A link under the temporary name, left or planted there, is replaced and not followed."""
    path, other = tmp_path / "token", tmp_path / "other"
    other.write_text("other")
    path.with_name(f"token.{os.getpid()}.partial").symlink_to(other)
    write_atomically(path, "new")
    assert other.read_text() == "other" and path.read_text() == "new" and not path.is_symlink()


@pytest.mark.parametrize("fsync", [False, True])
def test_content_is_on_disk_before_the_rename_if_requested(tmp_path, monkeypatch, fsync):
    events, original_fsync, original_replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("fsync"), original_fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), original_replace(*paths)))
    with atomic_replacement(tmp_path / "file", fsync=fsync) as temporary:
        temporary.write_text("content")
    assert events == ["fsync"] * fsync + ["rename"]
