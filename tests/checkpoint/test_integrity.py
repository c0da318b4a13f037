"""Proofs of integrity: what they save reading, and what makes them void."""

import json
import os
import shutil

import pytest
from tiny_checkpoints import abstract, save

from jaxdp.checkpoint import integrity
from jaxdp.checkpoint.files import describe_files
from jaxdp.checkpoint.integrity import Intactness
from jaxdp.checkpoint.manifest import (
    Manifest,
    committed_steps,
    find_damage,
    read_manifest,
    record_metrics,
    write_manifest,
)
from jaxdp.checkpoint.retention import Retention, apply_retention
from jaxdp.checkpoint.saving import CheckpointWriter


@pytest.fixture
def checkpoints(tmp_path):
    directory = tmp_path / "checkpoints"
    for step in range(1, 6):
        (directory / str(step) / "state").mkdir(parents=True)
        (directory / str(step) / "state" / "array").write_bytes(bytes([step] * 9))
        files = describe_files(directory / str(step))
        write_manifest(directory / str(step), Manifest(step, 0.0, {"eval/loss": float(step)}, [], files))
    return directory


@pytest.fixture
def read(monkeypatch):
    """The names of the checkpoints whose contents are read, and of those whose manifest is."""
    contents, manifests = [], []
    monkeypatch.setattr(integrity, "find_damage", lambda path: contents.append(path.name) or find_damage(path))
    monkeypatch.setattr(integrity, "read_manifest", lambda path: manifests.append(path.name) or read_manifest(path))
    return contents, manifests


def start(checkpoints, retention):
    """Does what one start of a run does with its proofs."""
    intactness = Intactness(checkpoints.parent / "proofs.json")
    apply_retention(checkpoints, retention, intactness)
    intactness.record(checkpoints)


def test_the_next_start_reads_nothing_again(checkpoints, read):
    start(checkpoints, Retention(keep_latest=4, keep_best=0))
    assert sorted(read[0]) == ["2", "3", "4", "5"] and committed_steps(checkpoints) == [2, 3, 4, 5]
    read[0].clear()
    start(checkpoints, Retention(keep_latest=3, keep_best=0))
    assert read[0] == [] and committed_steps(checkpoints) == [3, 4, 5]
    assert json.loads((checkpoints.parent / "proofs.json").read_text()).keys() == {"3", "4", "5"}


def write_in_place(path):
    with open(path, "r+b") as file:
        file.write(b"\xff")


def write_with_the_old_time(path):
    before = path.stat()
    write_in_place(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path):
    content = bytes([255]) + path.read_bytes()[1:]
    path.with_name("new").write_bytes(content)
    path.with_name("new").replace(path)


@pytest.mark.parametrize("change", [write_in_place, write_with_the_old_time, replace, os.unlink])
def test_damage_between_two_starts_is_found(checkpoints, read, change):
    start(checkpoints, Retention(keep_latest=4, keep_best=0))
    change(checkpoints / "5" / "state" / "array")
    read[0].clear()
    start(checkpoints, Retention(keep_latest=2, keep_best=0))
    assert read[0] == ["5"]
    assert committed_steps(checkpoints) == [3, 4, 5]  # 3 takes its place


def test_a_copy_of_a_run_is_read_once(checkpoints, read, tmp_path):
    start(checkpoints, Retention(keep_latest=4, keep_best=0))
    shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    read[0].clear()
    for _ in range(2):
        start(tmp_path.with_name("copy") / "checkpoints", Retention(keep_latest=3, keep_best=0))
    assert sorted(read[0]) == ["3", "4", "5"]


def test_a_moved_run_is_not_read_again(checkpoints, read, tmp_path):
    start(checkpoints, Retention(keep_latest=4, keep_best=0))
    read[0].clear()
    checkpoints.parent.rename(tmp_path.with_name("moved"))
    start(tmp_path.with_name("moved") / "checkpoints", Retention(keep_latest=3, keep_best=0))
    assert read[0] == []


def test_where_nothing_is_to_be_deleted_nothing_is_read(checkpoints, read):
    for _ in range(2):
        start(checkpoints, Retention(keep_latest=9))
    assert read[0] == []


def test_a_manifest_is_read_once_and_again_when_it_is_another(checkpoints, read):
    intactness = Intactness()
    for _ in range(3):
        assert intactness.metrics(checkpoints).keys() == {1, 2, 3, 4, 5}
    assert len(read[1]) == 5
    record_metrics(checkpoints / "3", {"eval/loss": 7.0})
    (checkpoints / "4" / "manifest.json").write_text("{}")
    shutil.rmtree(checkpoints / "5")
    metrics = intactness.metrics(checkpoints)
    assert metrics.keys() == {1, 2, 3} and metrics[3] == {"eval/loss": 7.0}
    assert read[1][5:] == ["3", "4"]


RECORDS = (b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe\x00", b"7", b'{"5": 7, "4": null, "3": [], "x": "y"}')


@pytest.mark.parametrize("content", RECORDS, ids=range(len(RECORDS)))
def test_a_record_that_is_none_of_ours_proves_nothing(checkpoints, read, content):
    (checkpoints.parent / "proofs.json").write_bytes(content)
    start(checkpoints, Retention(keep_latest=3, keep_best=0))
    assert sorted(read[0]) == ["3", "4", "5"] and committed_steps(checkpoints) == [3, 4, 5]
    assert json.loads((checkpoints.parent / "proofs.json").read_text()).keys() == {"3", "4", "5"}


@pytest.mark.parametrize("obstacle", ["directory", "FIFO"])
def test_something_else_at_the_place_of_the_record_does_no_harm(checkpoints, read, capsys, obstacle):
    place = checkpoints.parent / "proofs.json"
    place.mkdir() if obstacle == "directory" else os.mkfifo(place)
    start(checkpoints, Retention(keep_latest=3, keep_best=0))
    assert committed_steps(checkpoints) == [3, 4, 5]
    told = f"{place} cannot be written (Is a directory): the next start reads all kept checkpoints once more\n"
    assert capsys.readouterr().err == (told if obstacle == "directory" else "")


def test_a_writer_leaves_proofs_for_the_next_one(tmp_path, read):
    for steps in ((1, 2, 3), (4, 5)):
        writer = CheckpointWriter(
            tmp_path / "checkpoints", Retention(keep_latest=2, keep_best=0), abstract(), async_save=True,
            proofs=tmp_path / "proofs.json",
        )  # fmt: skip
        for step in steps:
            save(writer, step)
            writer.wait()
        writer.close()
    assert committed_steps(tmp_path / "checkpoints") == [4, 5]
    assert read[0] == []
