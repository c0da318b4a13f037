"""Listing of a checkpoint directory, during a run that saves and deletes, and with foreign files in it."""

import os
import shutil

import pytest

from jaxdp.checkpoint import listing, manifest
from jaxdp.checkpoint.files import describe_files
from jaxdp.checkpoint.listing import list_checkpoints
from jaxdp.checkpoint.manifest import Manifest, committed_steps, write_manifest
from jaxdp.checkpoint.names import damaged_step, leftover_step, step_of
from jaxdp.checkpoint.retention import (
    Retention,
    apply_retention,
    choose_step,
    delete_checkpoint,
    remove_leftovers,
    without_manifest,
)
from jaxdp.errors import UserError

RETENTION = Retention(keep_latest=1, keep_best=1)


@pytest.fixture
def checkpoints(tmp_path):
    """Checkpoints 1 to 3, each with a file."""
    directory = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        commit(directory / str(step), step)
    return directory


def commit(directory, step):
    directory.mkdir(parents=True)
    (directory / "array").write_bytes(bytes(10 * step))
    write_manifest(directory, Manifest(step, 0.0, {"eval/loss": float(step)}, [], describe_files(directory)))


def verdicts(checkpoints, *, verify=False):
    return {entry["name"]: entry["verdict"] for entry in list_checkpoints(checkpoints, RETENTION, verify=verify)}


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("moment", ["read_manifest", "find_damage", "has_manifest"])
@pytest.mark.parametrize("act", ["renamed", "deleted"])
def test_what_a_run_deletes_meanwhile_is_left_out(checkpoints, monkeypatch, verify, moment, act):
    whole = getattr(listing, moment)

    def delete_first(path, **options):
        if path.name == "2" and path.exists():
            path.rename(path.with_name("2.deleting")) if act == "renamed" else shutil.rmtree(path)
        return whole(path, **options)

    monkeypatch.setattr(listing, moment, delete_first)
    expected = "intact" if verify else "complete"
    assert verdicts(checkpoints, verify=verify) == {"1": expected, "3": expected}


@pytest.mark.parametrize("verify", [False, True])
def test_what_a_run_commits_meanwhile_is_no_damage(checkpoints, monkeypatch, verify):
    (checkpoints / "3").rename(checkpoints / "3.saving-0a1b")
    whole = listing.size_and_time

    def commit_first(path):
        if path.name == "3.saving-0a1b":
            path.rename(checkpoints / "3")
        return whole(path)

    monkeypatch.setattr(listing, "size_and_time", commit_first)
    assert verdicts(checkpoints, verify=verify).keys() == {"1", "2"}


def test_files_that_vanish_while_they_are_counted_do_no_harm(checkpoints, monkeypatch):
    stat, gone = os.stat, []

    def delete_first(path, *arguments, **options):
        if str(path).endswith("2.deleting/array") and not gone:
            gone.append(path)
            os.unlink(path)
        return stat(path, *arguments, **options)

    (checkpoints / "2").rename(checkpoints / "2.deleting")
    monkeypatch.setattr(os, "stat", delete_first)
    assert verdicts(checkpoints) == {"1": "complete", "2.deleting": "unfinished", "3": "complete"}
    assert gone


FOREIGN_NAMES = (
    "²",
    "٣",
    "3²",
    "007",
    "0x3",
    "-3",
    "+3",
    "3 ",
    "1_000",
    "3.5",
    "3.saving",
    "٣.deleting",
    "3.damaged.old",
    "\uff13",
)


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_a_name_that_is_no_step_of_ours_is_nothing_to_us(checkpoints, name):
    assert (step_of(name), leftover_step(name), damaged_step(name)) == (None, None, None)
    commit(checkpoints / name, 9)
    assert committed_steps(checkpoints) == [1, 2, 3] and verdicts(checkpoints).keys() == {"1", "2", "3"}
    assert remove_leftovers(checkpoints) == [] and without_manifest(checkpoints) == []
    apply_retention(checkpoints, RETENTION)
    assert {path.name for path in checkpoints.iterdir()} == {"1", "3", name}
    with pytest.raises(UserError, match=r"has no such checkpoint; it has 1, 3"):
        choose_step(checkpoints, name)


def test_a_directory_of_someone_else_is_listed_as_such_and_stays(checkpoints):
    (checkpoints / "7").mkdir()
    (checkpoints / "7" / "file").write_text("mine")
    assert verdicts(checkpoints)["7"] == "foreign"
    assert remove_leftovers(checkpoints) == [] and without_manifest(checkpoints) == []
    assert (checkpoints / "7" / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["2", "2.deleting"])
def test_of_a_symbolic_link_the_link_alone_is_deleted(checkpoints, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    (checkpoints / "2").rename(elsewhere)
    (checkpoints / name).symlink_to(elsewhere)
    if name == "2":
        assert verdicts(checkpoints, verify=True) == {"1": "intact", "2": "intact", "3": "intact"}
        apply_retention(checkpoints, RETENTION)
    else:
        assert remove_leftovers(checkpoints) == ["2.deleting"]
    assert {path.name for path in checkpoints.iterdir()} == {"1", "3"}
    assert manifest.find_damage(elsewhere) == []


def test_links_that_lead_nowhere_or_in_circles_do_no_harm(checkpoints):
    (checkpoints / "8").symlink_to(checkpoints / "nowhere")
    (checkpoints / "9").symlink_to(checkpoints / "9")
    (checkpoints / "9.deleting").symlink_to(checkpoints / "nowhere")
    assert committed_steps(checkpoints) == [1, 2, 3]
    assert verdicts(checkpoints).keys() == {"1", "2", "3"}
    assert remove_leftovers(checkpoints) == ["9.deleting"]
    apply_retention(checkpoints, RETENTION)


def test_a_deletion_that_someone_else_made_first_is_no_failure(checkpoints):
    delete_checkpoint(checkpoints / "4")
    (checkpoints / "2.deleting").mkdir()  # of an earlier deletion that could not be completed
    (checkpoints / "2.deleting" / "file").write_text("")
    delete_checkpoint(checkpoints / "2")
    assert {path.name for path in checkpoints.iterdir()} == {"1", "2.deleting", "3"}


def refusing(function, name, number):
    """The function, which fails for any path that ends with this name."""

    def refuse(path, *arguments, **options):
        if str(path).rstrip("/").endswith(name):
            raise OSError(number, os.strerror(number), str(path))
        return function(path, *arguments, **options)

    return refuse


@pytest.mark.parametrize(("number", "reason"), [(13, "Permission denied"), (1, "Operation not permitted")])
def test_what_may_not_be_read_or_deleted_is_one_sentence(checkpoints, monkeypatch, number, reason):
    with monkeypatch.context() as patch:
        for listing in ("listdir", "scandir"):  # pathlib lists with the first up to Python 3.12, with the second since
            patch.setattr(os, listing, refusing(getattr(os, listing), "checkpoints", number))
        with pytest.raises(UserError, match=rf"checkpoints cannot be listed \({reason}\); it must be a directory"):
            committed_steps(checkpoints)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refusing(os.stat, "2/manifest.json", number))
        with pytest.raises(UserError, match=rf"2/manifest.json cannot be read \({reason}\)"):
            committed_steps(checkpoints)  # not to be taken for a run that has no checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refusing(os.rename, "checkpoints/2", number))
        with pytest.raises(UserError, match=rf"2 cannot be deleted \({reason}\); change the permissions"):
            apply_retention(checkpoints, RETENTION)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refusing(shutil.rmtree, "2.deleting", number))
        with pytest.raises(UserError, match=rf"2.deleting cannot be deleted \({reason}\)"):
            apply_retention(checkpoints, RETENTION)
        with pytest.raises(UserError, match=rf"2.deleting cannot be deleted \({reason}\)"):
            remove_leftovers(checkpoints)


def test_files_where_directories_should_be(checkpoints):
    (checkpoints / "4").write_text("")
    (checkpoints / "5").mkdir()
    (checkpoints / "5" / "manifest.json").mkdir()
    (checkpoints / "6.deleting").write_text("")
    assert committed_steps(checkpoints) == [1, 2, 3]
    assert verdicts(checkpoints) == {"1": "complete", "2": "complete", "3": "complete", "5": "foreign"}
    assert remove_leftovers(checkpoints) == []
    with pytest.raises(UserError, match=r"4 cannot be listed \(Not a directory\); it must be a directory"):
        committed_steps(checkpoints / "4")
