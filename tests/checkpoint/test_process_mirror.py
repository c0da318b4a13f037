"""Mirrors of a run of several processes in object storage: shards of each, the order of what is put, and faults of either."""

import json
import os
import threading

import numpy as np
import pytest
from fake_store import FakeStore
from tiny_processes import as_processes
from tiny_remote import machine, make_checkpoint, start, stored_steps, whole_steps

from jaxdp.checkpoint import run_mirror
from jaxdp.checkpoint.files import describe_files
from jaxdp.checkpoint.manifest import Manifest, write_manifest
from jaxdp.checkpoint.process_mirror import ProcessMirror
from jaxdp.checkpoint.remote_shards import find_records, put_shards
from jaxdp.checkpoint.retention import delete_checkpoint
from jaxdp.checkpoint.shard_records import files_of, pieces_of, write_shards
from jaxdp.errors import DamageFound, ProcessLost
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.parallel.host_blocks import Range
from jaxdp.storage.held_lease import HeldLease
from jaxdp.storage.lease import LeaseLost
from jaxdp.storage.lease_content import KEY
from jaxdp.storage.object_store import StorageError

TOKEN = "0123456789ab"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(run_mirror, "POLL_SECS", 0.01)


@pytest.fixture
def machines(tmp_path):
    """(objects in the store, directories of processes 0 and 1)."""
    return {}, [machine(tmp_path / str(index)) for index in range(2)]


def follow(store, directory, mirror, process=1):
    """The mirror of another process of the run whose process 0 has `mirror`."""
    lease = HeldLease(store, mirror._lease.session)
    return ProcessMirror(directory, store, lease, process, lambda text: None, sleep=lambda secs: None)


def unfinished(directory, step):
    return directory.checkpoints / f"{step}.saving-{TOKEN}"


def write(directory, step, process):
    """Writes the shards of a process, as a save does."""
    path = unfinished(directory, step)
    path.parent.mkdir(exist_ok=True)
    held = Range(0, 3 * process, 3 * process + 3)
    write_shards(path, process, {"kernel": np.full(3, 10 * step + process, np.float32)}, {"kernel": held})
    return path


def commit(mirror, directory, step, control_plane):
    """Saves a checkpoint as process 0: writes its files, waits for the shards of the others, and commits the manifest."""
    path = unfinished(directory, step)
    (path / "state").mkdir(parents=True)
    (path / "state" / "0").write_text(f"state {step}")
    write(directory, step, 0)
    files = describe_files(path)
    records = mirror.collect_shards(path, control_plane)
    write_manifest(path, Manifest(step, 0.0, {}, [], files | files_of(records), pieces=pieces_of(records)))
    path.rename(directory.checkpoints / str(step))
    mirror.publish()


def save(stores, mirrors, directories, step, before_send=lambda: None):
    """One save of two processes; returns what each returns or raises."""

    def function(control_plane):
        process = control_plane.process_index
        if process == 0:
            return commit(mirrors[0], directories[0], step, control_plane)
        path = write(directories[1], step, 1)
        before_send()
        return mirrors[1].send_shards(path, 1)

    return as_processes(2, function)


def start_both(objects, directories, **faults):
    stores = [FakeStore(objects), FakeStore(objects, **faults)]
    main = start(stores[0], directories[0])
    return stores, [main, follow(stores[1], directories[1], main)]


def test_the_manifest_is_put_after_the_shards_of_the_last_process(machines):
    objects, directories = machines
    stores, mirrors = start_both(objects, directories)
    stores[1].log = stores[0].log  # in one order
    sent = threading.Event()
    threading.Timer(0.2, sent.set).start()
    assert save(stores, mirrors, directories, 3, lambda: sent.wait(30)) == [None, None]
    assert stored_steps(stores[0]) == [3]
    puts = [key for what, key in stores[0].log if what == "put" and key.startswith("checkpoints/")]
    assert puts[:2] == ["checkpoints/3/shards_1.safetensors", "checkpoints/3/shards_1.json"]
    assert puts[-1] == "checkpoints/3/manifest.json"
    left = {key.removeprefix("checkpoints/3/") for key in objects if key.startswith("checkpoints/")}
    assert left == {"manifest.json", "state/0", "shards_0.safetensors", "shards_1.safetensors"}
    assert json.loads(objects["checkpoints/3/manifest.json"][0])["pieces"] == {
        "kernel": {"axis": 0, "ranges": {"shards_0": [0, 3], "shards_1": [3, 6]}}
    }
    assert not list(directories[1].checkpoints.iterdir()), "what was sent needs no room"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("operation", [0, 1])
def test_a_record_is_there_once_all_of_its_process_is(machines, operation, after):
    objects, directories = machines
    path = write(directories[1], 3, 1)
    dying = FakeStore(objects, fail_at=operation, after=after, error=lambda: RuntimeError("killed"))
    with pytest.raises(RuntimeError):
        put_shards(dying, lambda: None, path, 1)
    found = find_records(FakeStore(objects), path, {1})
    assert (found.keys() == {1}) == (operation == 1 and after)
    another_save = path.with_name("3.saving-ba9876543210")
    assert find_records(FakeStore(objects), another_save, {1}) == {}


def test_a_process_that_cannot_put_its_shards_stops_all_with_its_sentence(machines):
    objects, directories = machines
    stores, mirrors = start_both(
        objects, directories, fail_at=0, error=lambda: StorageError("s3://bucket/run cannot be written.")
    )
    errors = save(stores, mirrors, directories, 3)
    assert isinstance(errors[1], StorageError) and errors[1].exit_code == 2
    assert isinstance(errors[0], ProcessLost) and errors[0].exit_code == 2
    assert "process 1 on " in str(errors[0]) and "cannot be written" in str(errors[0])
    assert stored_steps(stores[0]) == []
    main = start(FakeStore(objects), directories[0])
    assert not any(key.startswith("checkpoints/") for key in objects), "the next start removes what it left"
    assert whole_steps(directories[0]) == [] and main is not None


def test_an_outage_of_process_0_keeps_the_shards_of_the_others(machines):
    objects, directories = machines
    stores, mirrors = start_both(objects, directories)
    stores[0].fail_at = stores[0].num_changes + 2
    stores[0].error = lambda: StorageError("the network is down.", is_transient=True)
    assert save(stores, mirrors, directories, 3) == [None, None]
    assert stores[0].num_changes > stores[0].fail_at and stored_steps(stores[0]) == [3]


def test_other_machines_restore_the_pieces_of_all(machines, tmp_path):
    objects, directories = machines
    stores, mirrors = start_both(objects, directories)
    save(stores, mirrors, directories, 3)
    store, others = FakeStore(objects), [machine(tmp_path / f"other_{index}") for index in range(2)]
    main = start(store, others[0])
    follow(store, others[1], main).fetch(3)
    assert whole_steps(others[0]) == whole_steps(others[1]) == [3]
    again = start(store, directories[0])  # this disk has no shards of process 1
    again.fetch(3)
    assert whole_steps(directories[0]) == [3]


def test_a_kill_before_the_upload_of_a_committed_checkpoint_loses_nothing(machines):
    objects, directories = machines
    stores, mirrors = start_both(objects, directories)
    mirrors[0].publish = lambda: None
    save(stores, mirrors, directories, 3)
    assert stored_steps(stores[0]) == []
    start(FakeStore(objects), directories[0])
    assert stored_steps(FakeStore(objects)) == whole_steps(directories[0]) == [3]


def test_a_committed_checkpoint_without_the_shards_of_another_process_is_dropped(machines):
    objects, directories = machines
    stores, mirrors = start_both(objects, directories)
    mirrors[0].publish = lambda: None
    save(stores, mirrors, directories, 3)
    stores[0].delete(["checkpoints/3/shards_1.safetensors"])
    start(FakeStore(objects), directories[0])
    assert stored_steps(FakeStore(objects)) == whole_steps(directories[0]) == []


def test_a_step_that_is_saved_again_after_a_rollback(machines):
    objects, directories = machines
    stores, mirrors = start_both(objects, directories)
    make_checkpoint(directories[0], 1)
    save(stores, mirrors, directories, 3)
    delete_checkpoint(directories[0].checkpoints / "3")
    mirrors[0].publish()
    assert stored_steps(stores[0]) == [1] and not any(key.startswith("checkpoints/3/") for key in objects)
    save(stores, mirrors, directories, 3)
    assert stored_steps(stores[0]) == [1, 3]


def test_a_process_fetches_checkpoints_that_are_newer_than_its_mirror(machines):
    objects, directories = machines
    _, mirrors = start_both(objects, directories)
    make_checkpoint(directories[0], 1)
    mirrors[0].publish()
    mirrors[1].fetch(1)
    assert whole_steps(directories[1]) == [1]
    delete_checkpoint(directories[0].checkpoints / "1")
    make_checkpoint(directories[0], 1, "saved again")
    mirrors[0].publish()
    mirrors[1].fetch(1)
    assert "saved again" in (directories[1].checkpoints / "1" / "state/d/0").read_text()
    with pytest.raises(DamageFound, match=r"checkpoints/2/manifest\.json is missing"):
        mirrors[1].fetch(2)


def test_each_process_puts_its_own_log_and_nothing_else(machines):
    objects, directories = machines
    stores, mirrors = start_both(objects, directories)
    directories[1].logs.mkdir()
    for path in (directories[1].log(1), directories[1].log(0), directories[1].config):
        path.write_text("of process 1")
    mirrors[1].publish()
    assert stores[1].log == [("put", "logs/process_1.log")]
    mirrors[1].publish()
    assert len(stores[1].log) == 1


@pytest.mark.parametrize("here, stored, expected", [("abc", "ab", "abc"), ("ab", "abc", "abc"), (None, "a", "a")])
def test_the_longer_log_is_kept(machines, here, stored, expected):
    """That of a killed process has lines that were not put; that of another machine may be newer."""
    objects, directories = machines
    main = start(FakeStore(objects), directories[0])
    log = directories[1].log(1)
    log.parent.mkdir()
    FakeStore(objects).put("logs/process_1.log", stored.encode())
    if here is not None:
        log.write_text(here)
    follow(FakeStore(objects), directories[1], main)
    assert log.read_text() == expected


def test_a_process_of_a_run_that_lost_its_lease_puts_no_shards(machines, tmp_path):
    objects, directories = machines
    _, mirrors = start_both(objects, directories)
    start(FakeStore(objects), machine(tmp_path / "another"))
    before = dict(objects)
    with pytest.raises(LeaseLost, match=r"now belongs to process .* and writes nothing more") as lost:
        mirrors[1].send_shards(write(directories[1], 3, 1), 1)
    assert lost.value.exit_code == 70 and objects == before
    FakeStore(objects).delete([KEY])
    with pytest.raises(LeaseLost, match="now belongs to nobody"):
        mirrors[1].send_shards(unfinished(directories[1], 3), 1)


def test_a_damaged_newest_checkpoint_does_not_stop_the_start(machines):
    objects, directories = machines
    main = start(FakeStore(objects), directories[0])
    for step in (1, 2):
        make_checkpoint(directories[0], step)
    main.publish()
    FakeStore(objects)._set("checkpoints/2/state/d/0", b"state/d/0 9 ")
    main = start(FakeStore(objects), directories[1])
    with pytest.raises(DamageFound, match="checkpoints/2/state/d/0 has another SHA-256"):
        main.fetch(2)
    assert (directories[1].checkpoints / "1" / "state/d/0").is_file(), "the one before is there"


def test_a_single_process_waits_for_nobody(machines):
    objects, directories = machines
    main = start(FakeStore(objects), directories[0])
    commit(main, directories[0], 1, ControlPlane.single_process())
    assert stored_steps(FakeStore(objects)) == [1]
