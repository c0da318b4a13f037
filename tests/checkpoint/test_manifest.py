"""Manifest: commit of a checkpoint and detection of damage."""

import dataclasses
import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from jaxdp.checkpoint import files
from jaxdp.checkpoint import manifest as manifests
from jaxdp.checkpoint.files import changed_files, describe_files
from jaxdp.checkpoint.manifest import (
    Manifest,
    committed_steps,
    find_damage,
    read_item,
    read_manifest,
    record_metrics,
    require_manifest,
    write_manifest,
)
from jaxdp.errors import DamageFound, UserError


@pytest.fixture
def checkpoint(tmp_path):
    """A directory with a few files, committed."""
    (tmp_path / "state" / "d").mkdir(parents=True)
    (tmp_path / "config").mkdir()
    (tmp_path / "state" / "d" / "array").write_bytes(bytes(range(200)))
    (tmp_path / "config" / "metadata").write_text('{"seed": 1}')
    leaves = [{"path": "params/w", "shape": [2, 3], "dtype": "float32", "checksum": 7}]
    files = describe_files(tmp_path)
    write_manifest(tmp_path, Manifest(3, 1.7e9 + 1 / 3, {"eval/loss": 0.1, "eval/x": None}, leaves, files))
    return tmp_path


def test_manifest_returns_as_written(checkpoint):
    found = read_manifest(checkpoint)
    assert (found.step, found.time, found.metrics) == (3, 1.7e9 + 1 / 3, {"eval/loss": 0.1, "eval/x": None})
    assert found.leaves == [{"path": "params/w", "shape": [2, 3], "dtype": "float32", "checksum": 7}]
    assert found.files["config/metadata"] == {
        "bytes": 11,
        "sha256": "a4bbadc1c78966d28872dbe60ff40cb9c996f884e228ed4a08eb7d6c3a24f4b8",
    }
    assert find_damage(checkpoint) == []
    assert not list(checkpoint.glob("*.partial"))


def test_a_flipped_bit_in_any_byte_of_the_manifest_is_damage(checkpoint):
    path = checkpoint / "manifest.json"
    content = path.read_bytes()
    for index in range(len(content)):
        flipped = bytearray(content)
        flipped[index] ^= 1 << index % 8
        path.write_bytes(flipped)
        assert read_manifest(checkpoint) is None, index
    assert find_damage(checkpoint) == [f"{path} is missing or damaged"]


def test_a_truncated_or_foreign_manifest_is_damage(checkpoint):
    path = checkpoint / "manifest.json"
    text = path.read_text()
    for content in ("", text[:-2], text + " ", "[]", "{}", "null", '{"digest": ""}'):
        path.write_text(content)
        assert read_manifest(checkpoint) is None


def test_another_format_is_reported(checkpoint, monkeypatch):
    monkeypatch.setattr(manifests, "READABLE_FORMATS", (1,))
    with pytest.raises(UserError, match=r"manifest.json has format 2, this version of jaxdp reads 2 and lower"):
        read_manifest(checkpoint)


def test_a_crash_while_writing_leaves_the_old_manifest(checkpoint, monkeypatch):
    before = (checkpoint / "manifest.json").read_bytes()

    def crash(_):
        raise OSError("no space")

    monkeypatch.setattr(manifests.os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        write_manifest(checkpoint, Manifest(4, 0.0, {}, [], {}))
    assert (checkpoint / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "has 199 bytes, 200 were written"),
        (lambda path: path.write_bytes(b"\1" + path.read_bytes()[1:]), "has another SHA-256 than when it was written"),
    ],
)
def test_each_kind_of_damage_names_the_file(checkpoint, damage, sentence):
    path = checkpoint / "state" / "d" / "array"
    damage(path)
    assert find_damage(checkpoint) == [f"{path} {sentence}"]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.mkdir(), "is a directory"),
        (os.mkfifo, "is a named pipe"),
        (lambda path: path.symlink_to("/dev/null"), "is a device"),
    ],
)
@pytest.mark.parametrize("num_bytes", [0, 200])
def test_something_else_in_the_place_of_a_file_is_named_and_not_read(checkpoint, make, kind, num_bytes):
    path = checkpoint / "state" / "d" / "array"
    path.unlink()
    make(path)
    expected = {"state/d/array": {"bytes": num_bytes, "sha256": "0" * 64}}
    assert changed_files(checkpoint, expected) == [f"{path} {kind}, and was a file when it was written"]


def test_a_stray_file_is_no_damage(checkpoint):
    (checkpoint / "state" / ".nfs0001").write_text("left by the file system")
    assert find_damage(checkpoint) == []


def test_read_item_reads_only_what_was_written(checkpoint):
    assert read_item(checkpoint, "config") == {"seed": 1}
    (checkpoint / "config" / "metadata").write_text('{"seed": 2}')
    with pytest.raises(DamageFound, match="config/metadata is missing or not what was written"):
        read_item(checkpoint, "config")
    (checkpoint / "config" / "metadata").unlink()
    with pytest.raises(DamageFound, match="config/metadata is missing or not what was written"):
        read_item(checkpoint, "config")
    (checkpoint / "manifest.json").write_text("{}")
    with pytest.raises(DamageFound, match=r"manifest.json is missing or damaged"):
        read_item(checkpoint, "config")


def test_committed_steps_are_those_with_a_manifest_in_numeric_order(tmp_path):
    assert committed_steps(tmp_path / "nothing") == []
    for name in ("9", "10", "100", "20", "7.damaged", "8.deleting", "9.orbax-checkpoint-tmp", "notes"):
        (tmp_path / name).mkdir()
        if name != "20":
            (tmp_path / name / "manifest.json").write_text("{}")
    (tmp_path / "11").write_text("a file")
    assert committed_steps(tmp_path) == [9, 10, 100]


def test_metrics_are_json(checkpoint):
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(checkpoint, Manifest(3, 0.0, {"eval/loss": float("nan")}, [], {}))
    assert json.loads((checkpoint / "manifest.json").read_text())["metrics"]["eval/x"] is None


def fail_with(number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


def test_what_the_disk_cannot_read_is_damage(checkpoint, monkeypatch):
    monkeypatch.setattr(hashlib, "file_digest", fail_with(errno.EIO))
    problems = find_damage(checkpoint)
    assert problems and all(problem.endswith("cannot be read (Input/output error)") for problem in problems)
    monkeypatch.setattr(files, "read_regular", fail_with(errno.EIO))
    assert read_manifest(checkpoint) is None
    assert find_damage(checkpoint) == [f"{checkpoint / 'manifest.json'} is missing or damaged"]


def test_what_may_not_be_read_is_no_damage(checkpoint, monkeypatch):
    """Nothing must be set aside because a file system is away or a permission is missing."""
    monkeypatch.setattr(hashlib, "file_digest", fail_with(errno.EACCES))
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\); fix that, then run the same command"):
        find_damage(checkpoint)
    monkeypatch.setattr(files, "read_regular", fail_with(errno.ESTALE))
    with pytest.raises(UserError, match=r"manifest.json cannot be read \(Stale file handle\)"):
        read_manifest(checkpoint)


def test_metrics_of_a_later_evaluation_are_added(checkpoint):
    before = read_manifest(checkpoint)
    record_metrics(checkpoint, {"eval/loss": 2.5, "eval/other": float("inf")})
    after = read_manifest(checkpoint)
    assert after.metrics == {"eval/loss": 2.5, "eval/other": None}
    assert dataclasses.replace(after, metrics=before.metrics) == before
    assert find_damage(checkpoint) == []


def test_everything_is_on_disk_before_the_checkpoint_counts(checkpoint, monkeypatch):
    """The power may fail at any moment: files and their names first, then the manifest, then its name."""
    events, fsync, replace = [], os.fsync, os.replace

    def name_of(descriptor):
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(checkpoint.parent).as_posix()

    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append(name_of(descriptor)), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("rename"), replace(*paths)))
    files = describe_files(checkpoint)
    inside = {path.relative_to(checkpoint.parent).as_posix() for path in checkpoint.rglob("*")}
    assert set(events) == inside
    events.clear()
    write_manifest(checkpoint, dataclasses.replace(read_manifest(checkpoint), files=files))
    assert events == [f"{checkpoint.name}/manifest.json.{os.getpid()}.partial", "rename", checkpoint.name, "."]


@pytest.mark.parametrize("read", [require_manifest, lambda path: read_item(path, "config")], ids=["manifest", "item"])
def test_a_checkpoint_that_its_run_deletes_meanwhile_is_not_damaged(checkpoint, read):
    """A deletion renames first, so a reader finds either all files or no directory."""
    gone = checkpoint / "gone"
    with pytest.raises(
        UserError, match="gone was deleted while it was read, probably by the run that trains there"
    ) as told:
        read(gone)
    assert told.value.exit_code == 2
    (gone / "state").mkdir(parents=True)
    with pytest.raises(DamageFound, match=r"manifest\.json is missing or damaged"):
        read(gone)


def test_an_item_whose_checkpoint_is_deleted_after_the_manifest_was_read(checkpoint, monkeypatch):
    def read_and_delete(path):
        manifest = read_manifest(path)
        path.rename(path.with_name("3.deleting"))
        return manifest

    monkeypatch.setattr(manifests, "require_manifest", read_and_delete)
    with pytest.raises(UserError, match="was deleted while it was read") as told:
        read_item(checkpoint, "config")
    assert told.value.exit_code == 2
