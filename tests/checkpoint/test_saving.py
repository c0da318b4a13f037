"""Saving train states: whole or absent, in the background, and told when it fails."""

import json
import resource
import shutil
import threading
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from tiny_checkpoints import abstract, assert_is_state, make_state, save
from tiny_runs import contents

from jaxdp.checkpoint import saving
from jaxdp.checkpoint.destination import Destination
from jaxdp.checkpoint.manifest import committed_steps, read_manifest, write_manifest
from jaxdp.checkpoint.restoring import restore, restore_latest
from jaxdp.checkpoint.retention import Retention, remove_leftovers
from jaxdp.checkpoint.saving import CheckpointWriter
from jaxdp.errors import UserError
from jaxdp.parallel import first_execution
from jaxdp.storage.object_store import StorageLost
from jaxdp.workdir import WorkDir


def test_manifest_lists_every_file_and_every_array(checkpoints, make_writer):
    writer = make_writer()
    save(writer, 7)
    writer.wait()
    manifest = read_manifest(checkpoints / "7")
    on_disk = {
        path.relative_to(checkpoints / "7").as_posix() for path in (checkpoints / "7").rglob("*") if path.is_file()
    }
    assert manifest.files.keys() == on_disk - {"manifest.json"}
    assert {leaf["path"]: (leaf["dtype"], leaf["shape"]) for leaf in manifest.leaves} == {
        "step": ("int32", []),
        **{f"{part}/kernel": ("float32", [2, 3]) for part in ("params", "ema", "opt_state/0/mu", "opt_state/0/nu")},
        **{f"{part}/bias": ("float32", [3]) for part in ("params", "ema", "opt_state/0/mu", "opt_state/0/nu")},
        "opt_state/0/count": ("int32", []),
        "skipped": ("int32", []),
        "skipped_in_a_row": ("int32", []),
    }
    assert manifest.step == 7


def test_without_its_manifest_a_checkpoint_does_not_count(checkpoints, make_writer, monkeypatch):
    writer = make_writer()
    save(writer, 1)
    writer.wait()

    def die(directory, manifest):
        assert directory.name.startswith("2.saving-") and (directory / "commit_success.txt").exists()  # Orbax is done
        raise OSError("killed")

    monkeypatch.setattr(saving, "write_manifest", die)
    save(writer, 2)
    with pytest.raises(UserError, match="killed"):
        writer.wait()
    assert committed_steps(checkpoints) == [1]
    assert_is_state(restore_latest(checkpoints, abstract(), print), 1)
    [left] = remove_leftovers(checkpoints)
    assert left.startswith("2.saving-") and [path.name for path in checkpoints.iterdir()] == ["1"]


def test_save_returns_at_once_and_the_state_may_then_be_donated(checkpoints, make_writer, monkeypatch):
    writer, go_on = make_writer(), threading.Event()

    def wait_and_write(*arguments):
        go_on.wait(30)
        write_manifest(*arguments)

    monkeypatch.setattr(saving, "write_manifest", wait_and_write)
    state = make_state(1)
    writer.save(1, state, {}, {}, {})
    jax.tree.map(lambda leaf: leaf.delete(), state)
    writer.check()  # still writing: nothing to say, and no waiting
    assert committed_steps(checkpoints) == []
    go_on.set()
    writer.wait()
    assert_is_state(restore(checkpoints / "1", abstract()), 1)


class Recorded(Destination):
    """A destination with the calls that it got, which may fail."""

    def __init__(self, error=None):
        self.calls, self._error = [], error

    def send_shards(self, unfinished, process):
        self.calls.append(("send", process))

    def collect_shards(self, unfinished, control_plane):
        self.calls.append(("collect", unfinished.name.partition(".")[0]))
        return super().collect_shards(unfinished, control_plane)

    def publish(self):
        self.calls.append(("publish",))
        if self._error:
            raise self._error


def test_the_destination_gets_the_shards_before_the_commit_and_the_checkpoint_after_it(checkpoints, make_writer):
    writer = make_writer(destination=Recorded())
    save(writer, 1)
    writer.wait()
    assert writer._destination.calls == [("publish",)]
    writer._is_divided = True  # as with a second process
    save(writer, 2)
    writer.wait()
    assert writer._destination.calls[1:] == [("send", 0), ("collect", "2"), ("publish",)]
    assert "shards_0.safetensors" in read_manifest(checkpoints / "2").files


def test_a_destination_that_stays_unreachable_ends_the_run_with_its_sentence(checkpoints, make_writer):
    writer = make_writer(destination=Recorded(StorageLost("s3://bucket/run cannot be written.")))
    save(writer, 1)
    with pytest.raises(StorageLost, match=r"s3://bucket/run cannot be written") as lost:
        writer.wait()
    assert lost.value.exit_code == 70 and committed_steps(checkpoints) == [1]


def test_a_save_reads_nothing_from_a_gpu_during_the_first_execution_of_a_program(checkpoints, make_writer, monkeypatch):
    monkeypatch.setattr(first_execution, "PLATFORMS", frozenset({"cpu"}))
    writer = make_writer()
    with first_execution.outside_first_executions("cpu"):  # as a first execution holds the devices
        save(writer, 1)
        time.sleep(1.0)
        assert committed_steps(checkpoints) == []
    writer.wait()
    assert committed_steps(checkpoints) == [1]


def test_saving_a_step_again_changes_nothing(checkpoints, make_writer):
    writer = make_writer()
    save(writer, 1)
    writer.wait()
    before = (checkpoints / "1" / "manifest.json").read_bytes()
    writer.save(1, make_state(5), {}, {}, {})
    again = make_writer()  # a later start of the run
    again.save(1, make_state(5), {}, {}, {})
    again.wait()
    assert (checkpoints / "1" / "manifest.json").read_bytes() == before


def test_retention_is_applied_after_each_save(checkpoints, make_writer):
    writer, seen = make_writer(Retention(keep_latest=1, keep_best=1)), []
    for step, loss in enumerate([3.0, 1.0, 2.0, 5.0], 1):
        save(writer, step, {"eval/loss": loss})
        writer.wait()
        seen.append(committed_steps(checkpoints))
    assert seen == [[1], [2], [2, 3], [2, 4]]


def test_a_failed_save_is_reported_at_the_next_check(checkpoints, make_writer, monkeypatch):
    """TensorStore reports a full disk as a ValueError."""
    writer = make_writer()
    save(writer, 1)
    writer.wait()
    whole = ocp.AsyncCheckpointer.wait_until_finished

    def fill_the_disk(self):
        whole(self)
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ocp.AsyncCheckpointer, "wait_until_finished", fill_the_disk)
        save(writer, 2)
        with pytest.raises(UserError) as failure:
            for _ in range(1000):
                writer.check()
                time.sleep(0.01)
    assert str(failure.value) == (
        f"checkpoint 2 could not be written to {checkpoints}: RESOURCE_EXHAUSTED: No space left on device; "
        "whole checkpoints there: 1; make room or fix the directory and run the same command again."
    )
    writer.check()  # told once


def test_a_failed_save_can_be_made_again(checkpoints, make_writer, monkeypatch):
    writer = make_writer()
    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_manifest", lambda *_: (_ for _ in ()).throw(OSError("broken")))
        save(writer, 1)
        with pytest.raises(UserError, match="broken"):
            writer.wait()
    remove_leftovers(checkpoints)
    save(writer, 1)
    writer.wait()
    assert committed_steps(checkpoints) == [1]


@pytest.mark.parametrize("obstacle", ["a directory", "a file", "a link to nowhere"])
def test_what_has_the_name_of_the_next_checkpoint_is_set_aside(checkpoints, make_writer, capsys, obstacle):
    writer, place = make_writer(), checkpoints / "1"
    if obstacle == "a directory":
        place.mkdir()
        (place / "file").write_text("mine")
    elif obstacle == "a file":
        place.write_text("mine")
    else:
        place.symlink_to(checkpoints / "nowhere")
    save(writer, 1)
    writer.wait()
    assert committed_steps(checkpoints) == [1]
    aside = checkpoints / "1.foreign"
    assert f"{place} is not a complete checkpoint of jaxdp and is set aside as {aside}" in capsys.readouterr().err
    if obstacle == "a link to nowhere":
        assert aside.is_symlink()
    else:
        assert (aside / "file" if obstacle == "a directory" else aside).read_text() == "mine"


def test_the_reason_of_an_impossible_save_is_reported(checkpoints, make_writer):
    writer = make_writer()
    checkpoints.rmdir()
    checkpoints.write_text("")
    with pytest.raises(UserError, match=r"checkpoint 1 could not be written to .*: .*; whole checkpoints there: none"):
        save(writer, 1)
        writer.wait()


def test_manifest_is_json(checkpoints, make_writer):
    writer = make_writer()
    save(writer, 1, {"eval/loss": float("inf")})
    writer.wait()

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads((checkpoints / "1" / "manifest.json").read_text(), parse_constant=refuse)


def test_a_missing_directory_is_reported_and_not_created_again(checkpoints, make_writer):
    """The directory under an unmounted file system must not be filled instead of it."""
    writer = make_writer()
    save(writer, 1)
    writer.wait()
    checkpoints.rename(checkpoints.with_name("unmounted"))
    with pytest.raises(
        UserError, match=r"checkpoint 2 could not be written to .*: the directory is gone; whole .* none"
    ):
        save(writer, 2)
    assert not checkpoints.exists()
    checkpoints.with_name("unmounted").rename(checkpoints)
    save(writer, 2)
    writer.wait()
    assert committed_steps(checkpoints) == [1, 2]


@pytest.fixture
def make_held(tmp_path):
    """A writer into a work directory that this process has locked; closed, then released."""
    workdir = WorkDir(tmp_path / "run")
    workdir.create()
    with workdir.locked() as check_place:
        writer = CheckpointWriter(
            workdir.checkpoints,
            Retention(keep_latest=1, keep_best=0),
            abstract(),
            async_save=True,
            check_place=check_place,
        )
        yield workdir, writer
        with pytest.raises(UserError, match="deleted, moved or replaced"):
            writer.save(99, make_state(99), {}, {}, {})
        writer.close()


def replace_with_another_run(workdir):
    """Another run at the same path, with a newer checkpoint and one of the same steps."""
    shutil.move(workdir.root, workdir.root.with_name("gone"))
    shutil.copytree(workdir.root.with_name("gone"), workdir.root)
    (workdir.root / "metrics.jsonl").write_text("of another run")
    others = contents(workdir.root)
    shutil.rmtree(workdir.root.with_name("gone"))
    return others


@pytest.mark.parametrize(
    "moment", ["between saves", "while arrays are written", "before the commit", "before the deletion"]
)
def test_nothing_of_the_next_run_at_the_path_is_touched(make_held, monkeypatch, moment):
    workdir, writer = make_held
    save(writer, 1)
    writer.wait()
    found = []

    def after(name, module):
        whole = getattr(module, name)

        def replace(*arguments):
            result = whole(*arguments)
            if not found and threading.current_thread() is not threading.main_thread():
                found.append(replace_with_another_run(workdir))
            return result

        monkeypatch.setattr(module, name, replace)

    if moment == "between saves":
        found.append(replace_with_another_run(workdir))
    elif moment == "while arrays are written":
        # What Orbax still writes makes the directories above it again.
        after("wait_until_finished", ocp.AsyncCheckpointer)
    elif moment == "before the commit":
        after("write_manifest", saving)
    else:
        after("fsync_path", saving)
    with pytest.raises(UserError, match="deleted, moved or replaced") as told:
        save(writer, 2)
        writer.wait()
    assert told.value.exit_code == 2
    writer.close()
    strays = {name for name in found[0] if ".saving-" in name}  # copied with the rest, and removed by their token
    assert contents(workdir.root) == {name: content for name, content in found[0].items() if name not in strays}


def test_time_and_size_of_a_save_are_known(checkpoints, make_writer):
    writer = make_writer()
    assert writer.longest_save_secs == 0.0 and writer.take_metrics() == {}
    save(writer, 1)
    writer.wait()
    assert writer.longest_save_secs > 0.0
    files = [path for path in (checkpoints / "1").rglob("*") if path.is_file() and path.name != "manifest.json"]
    assert writer.take_metrics() == {
        "perf/checkpoint_bytes": sum(path.stat().st_size for path in files),
        "perf/checkpoint_secs": writer.longest_save_secs,
    }
    assert writer.take_metrics() == {}


def test_a_save_without_disk_space_is_reported_and_the_previous_one_is_intact(tmp_path):
    """No file may grow beyond a limit: to a process, what a full disk is."""
    checkpoints = tmp_path / "checkpoints"
    writer = CheckpointWriter(checkpoints, Retention(), abstract(num_columns=30000), async_save=True)
    writer.save(1, make_state(1, num_columns=30000), {}, {}, {})
    writer.wait()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(UserError) as failure:
            writer.save(2, make_state(2, num_columns=30000), {}, {}, {})
            writer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        writer.close()
    assert str(failure.value) == (
        f"checkpoint 2 could not be written to {checkpoints}: File too large; whole checkpoints there: 1; "
        "make room or fix the directory and run the same command again."
    )
    state = restore_latest(checkpoints, abstract(num_columns=30000), print)
    np.testing.assert_array_equal(state.params["kernel"], make_state(1, num_columns=30000).params["kernel"])
    [left] = remove_leftovers(checkpoints)
    assert left.startswith("2.saving-") and left.endswith(".orbax-checkpoint-tmp")
