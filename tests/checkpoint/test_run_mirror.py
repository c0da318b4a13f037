"""The mirror of a run in object storage: kills at every operation, machines that take turns, and outages."""

import os
import shutil

import pytest
from fake_store import FakeStore, Killed
from tiny_remote import machine, make_checkpoint, start, stored_steps, whole_steps

from jaxdp.checkpoint.mirror import MAX_OUTAGE_SECS
from jaxdp.checkpoint.retention import delete_checkpoint, set_aside
from jaxdp.errors import DamageFound
from jaxdp.storage.object_store import StorageError, StorageLost


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Waiting for the disk is most of the time of many small checkpoints."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def train_to(mirror, directory, step):
    """Saves every step after the newest one and keeps two, as a run does."""
    for number in range(max([0, *whole_steps(directory)]) + 1, step + 1):
        with open(directory.metrics, "a") as file:
            file.write(f'{{"step": {number}}}\n')
        make_checkpoint(directory, number)
        mirror.publish()
        for old in whole_steps(directory)[:-2]:
            delete_checkpoint(directory.checkpoints / str(old))
        mirror.publish()


def metrics_of(directory, step):
    """Lines of metrics.jsonl up to a step."""
    lines = directory.metrics.read_text().splitlines() if directory.metrics.is_file() else []
    return lines[:step]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_operation_leaves_the_newest_checkpoint_whole(tmp_path, after):
    undisturbed = FakeStore()
    train_to(start(undisturbed, machine(tmp_path / "undisturbed")), machine(tmp_path / "undisturbed"), 4)
    assert stored_steps(undisturbed)[-1] == 4 and undisturbed.num_changes > 25
    for fail_at in range(undisturbed.num_changes):
        store, first = FakeStore(fail_at=fail_at, after=after), machine(tmp_path / f"{fail_at}")
        committed = 0
        with pytest.raises(Killed):
            mirror = start(store, first)
            for step in range(1, 5):
                train_to(mirror, first, step)
                committed = step
        assert stored_steps(store)[-1:] >= ([committed] if committed else [])
        store = FakeStore(store.objects)
        fresh = machine(tmp_path / f"{fail_at}_fresh")
        mirror = start(store, fresh)
        newest = max([0, *whole_steps(fresh)])
        assert newest >= committed and whole_steps(fresh) == stored_steps(store)
        assert metrics_of(fresh, newest) == [f'{{"step": {step}}}' for step in range(1, newest + 1)]
        train_to(mirror, fresh, 4)
        assert stored_steps(store)[-1] == 4
        left = {key.split("/")[1] for key in store.objects if key.startswith("checkpoints/")}
        assert left == set(map(str, stored_steps(store)))
        for path in (first.root, fresh.root):
            shutil.rmtree(path)


def test_the_same_machine_continues_from_what_was_not_uploaded(tmp_path):
    store, directory = FakeStore(), machine(tmp_path)
    train_to(start(store, directory), directory, 2)
    make_checkpoint(directory, 3)  # and a kill before it is published
    start(store, directory)
    assert whole_steps(directory) == stored_steps(store) == [1, 2, 3]


def test_another_machine_that_trained_since_is_believed(tmp_path):
    store, first, second = FakeStore(), machine(tmp_path / "1"), machine(tmp_path / "2")
    train_to(start(store, first), first, 2)
    make_checkpoint(first, 3, "never uploaded")
    train_to(start(store, second), second, 5)
    start(store, first)
    assert whole_steps(first) == stored_steps(store) == [4, 5]
    assert first.metrics.read_text() == second.metrics.read_text()


def test_a_kill_between_the_lease_and_the_restore_does_not_make_an_old_mirror_the_truth(tmp_path):
    store, first, second = FakeStore(), machine(tmp_path / "1"), machine(tmp_path / "2")
    train_to(start(store, first), first, 2)
    train_to(start(store, second), second, 5)
    listed, store.list = store.list, lambda prefix="": (_ for _ in ()).throw(Killed())
    with pytest.raises(Killed):
        start(store, first)
    store.list = listed
    start(store, first)
    assert whole_steps(first) == stored_steps(store) == [4, 5]


def test_older_checkpoints_are_downloaded_when_they_are_needed(tmp_path):
    store, first, second = FakeStore(), machine(tmp_path / "1"), machine(tmp_path / "2")
    train_to(start(store, first), first, 3)
    mirror = start(store, second)
    older = second.checkpoints / "2"
    assert [path.name for path in older.iterdir()] == ["manifest.json"]
    mirror.fetch(2)
    assert (older / "state/d/0").read_text() == "state/d/0 2 "
    (older / "state/d/0").write_text("state/d/0 9 ")
    mirror.fetch(2)
    assert (older / "state/d/0").read_text() == "state/d/0 2 "


def test_a_damaged_object_is_found_and_set_aside(tmp_path):
    store, first, second = FakeStore(), machine(tmp_path / "1"), machine(tmp_path / "2")
    train_to(start(store, first), first, 3)
    store._set("checkpoints/2/state/d/0", b"state/d/0 9 ")
    mirror = start(store, second)
    with pytest.raises(DamageFound, match="run/checkpoints/2/state/d/0 has another SHA-256"):
        mirror.fetch(2)
    set_aside(second.checkpoints / "2")
    mirror.publish()
    assert stored_steps(store) == [3]
    assert store.objects["checkpoints/2.damaged/state/d/0"][0] == b"state/d/0 9 "
    assert "checkpoints/2.damaged/manifest.json" in store.objects


def test_a_step_that_is_saved_again_replaces_the_earlier_one(tmp_path):
    store, directory = FakeStore(), machine(tmp_path)
    mirror = start(store, directory)
    train_to(mirror, directory, 3)
    delete_checkpoint(directory.checkpoints / "3")  # a rollback
    make_checkpoint(directory, 3, "after the rollback")
    mirror.publish()
    assert stored_steps(store)[-1] == 3
    assert store.objects["checkpoints/3/state/d/0"][0] == b"state/d/0 3 after the rollback"


def test_a_later_evaluation_puts_the_manifest_alone(tmp_path):
    from jaxdp.checkpoint.manifest import record_metrics

    store, directory = FakeStore(), machine(tmp_path)
    mirror = start(store, directory)
    train_to(mirror, directory, 1)
    record_metrics(directory.checkpoints / "1", {"eval/loss": 2.0})
    store.log.clear()
    mirror.publish()
    assert store.log == [("put", "checkpoints/1/manifest.json")]


def test_unchanged_files_are_not_put_again_also_after_a_restart(tmp_path):
    store, directory = FakeStore(), machine(tmp_path)
    mirror = start(store, directory)
    directory.config.write_text("{}")
    (directory.root / ".run_token").write_text("secret")
    (directory.root / "run.lock").write_text("{}")
    train_to(mirror, directory, 1)
    assert not {".run_token", "run.lock", ".mirror.json"} & store.objects.keys() and "config.json" in store.objects
    store.log.clear()
    mirror.publish()
    assert store.log == []
    start(store, directory)
    assert {key for _, key in store.log} == {"run.lease"}


class Outage:
    """A clock, and a store that is down until a time."""

    def __init__(self, store, until):
        self.now, self.store, self.until = 0.0, store, until
        store.is_down = True

    def sleep(self, secs):
        self.now += secs
        self.store.is_down = self.now < self.until


@pytest.mark.parametrize("secs", [MAX_OUTAGE_SECS / 2, MAX_OUTAGE_SECS * 2])
def test_an_outage_is_waited_for_up_to_a_limit(tmp_path, secs):
    store, directory = FakeStore(), machine(tmp_path)
    mirror = start(store, directory)
    train_to(mirror, directory, 1)
    outage, said = Outage(store, secs), []
    mirror._sleep, mirror._clock, mirror._print_status = outage.sleep, lambda: outage.now, said.append
    make_checkpoint(directory, 2)
    if secs < MAX_OUTAGE_SECS:
        mirror.publish()
        assert len(said) == 1 and "trying again for up to 10 min" in said[0]
    else:
        with pytest.raises(
            StorageLost, match=r"Nothing is lost: the state is in .*same command on this machine"
        ) as lost:
            mirror.publish()
        assert lost.value.exit_code == 70 and stored_steps(store) == [1]
        store.is_down = False
        start(store, directory)
    assert stored_steps(store) == [1, 2]


def test_a_failure_while_the_mirror_is_restored_is_repeated(tmp_path):
    store, first = FakeStore(), machine(tmp_path / "1")
    mirror = start(store, first)
    first.config.write_text("{}")
    train_to(mirror, first, 2)
    pieces, failing = store.pieces, ["config.json", "checkpoints/2/state/d/0"]

    def interrupted(key):
        if key in failing:
            failing.remove(key)
            raise StorageError("the network is down.", is_transient=True)
        return pieces(key)

    store.pieces = interrupted
    second = machine(tmp_path / "2")
    start(store, second)
    assert not failing and second.config.read_text() == "{}"
    assert (second.checkpoints / "2" / "state/d/0").read_text() == "state/d/0 2 "


def test_a_refusal_is_not_repeated(tmp_path):
    store, directory = FakeStore(), machine(tmp_path)
    mirror = start(store, directory)
    train_to(mirror, directory, 1)
    make_checkpoint(directory, 2)
    store.fail_at, store.error = store.num_changes + 1, lambda: StorageError("access is denied.")
    with pytest.raises(StorageError, match="access is denied"):
        mirror.publish()
    assert stored_steps(store) == [1]
