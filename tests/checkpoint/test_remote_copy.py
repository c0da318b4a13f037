"""Copies of runs in object storage, over a store in memory."""

import json

import pytest
from fake_store import FakeStore
from tiny_remote import machine, make_checkpoint, start

from jaxdp.checkpoint import remote_copy
from jaxdp.checkpoint.listing import list_checkpoints
from jaxdp.checkpoint.lookup import find_checkpoint
from jaxdp.checkpoint.manifest import find_damage, record_metrics
from jaxdp.checkpoint.remote_copy import RECORD, complete, is_remote_run, local_copy, read_directory, send_file
from jaxdp.checkpoint.retention import Retention, delete_checkpoint
from jaxdp.errors import DamageFound, UserError

URL = "s3://bucket/run"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(the mirror of a run with checkpoints 1 to 3, its directory, its store)."""
    store = FakeStore()
    monkeypatch.setattr(remote_copy.importlib.util, "find_spec", lambda name: name)  # obstore is not needed here
    monkeypatch.setattr(remote_copy, "open_store", lambda location, option: store)
    monkeypatch.setattr(
        remote_copy,
        "mirror_directory",
        lambda location, purpose: tmp_path / f"{location.prefix.replace('/', '_')}_{purpose}",
    )
    directory = machine(tmp_path / "run")
    mirror = start(store, directory)
    directory.config.write_text("{}")
    directory.provenance.write_text("[]")
    for step in (1, 2, 3):
        make_checkpoint(directory, step)
    mirror.publish()
    return mirror, directory, store


def names(path):
    return sorted(found.relative_to(path).as_posix() for found in path.rglob("*") if found.is_file())


def test_a_copy_has_the_shared_files_and_the_manifests(run):
    _, directory, _ = run
    copy = read_directory(URL)
    assert copy.place == URL and copy.root != directory.root
    shared = ["config.json", "provenance.json", RECORD, "run.lock"]
    assert names(copy.root) == sorted([*shared, *(f"checkpoints/{step}/manifest.json" for step in (1, 2, 3))])


def test_a_chosen_checkpoint_is_downloaded_whole(run):
    found = find_checkpoint(URL, "2")
    assert found.name == "2" and not find_damage(found)
    assert find_damage(found.with_name("3"))
    assert not find_damage(find_checkpoint(f"{URL}/checkpoints/3"))


def test_what_is_there_is_not_downloaded_again(run):
    _, _, store = run
    complete(find_checkpoint(URL, "2"))
    pieces, keys = store.pieces, []
    store.pieces = lambda key: keys.append(key) or pieces(key)
    find_checkpoint(URL, "2")
    assert keys == []


def test_a_copy_follows_the_run(run):
    mirror, directory, _ = run
    copy = read_directory(URL)
    find_checkpoint(URL, "2")
    find_checkpoint(URL, "3")
    directory.config.write_text('{"seed": 1}')
    directory.provenance.unlink()
    for step in (1, 3):
        delete_checkpoint(directory.checkpoints / str(step))
    make_checkpoint(directory, 3, "saved again")
    record_metrics(directory.checkpoints / "2", {"eval/loss": 1.0})
    mirror.publish()
    mirror._store.delete(["provenance.json"])
    local_copy(URL, "PATH")
    assert copy.config.read_text() == '{"seed": 1}' and not copy.provenance.exists()
    assert sorted(path.name for path in copy.checkpoints.iterdir()) == ["2", "3"]
    assert not find_damage(copy.checkpoints / "2"), "only its metrics have changed"
    assert names(copy.checkpoints / "3") == ["manifest.json"]
    assert "saved again" in (find_checkpoint(URL) / "state/d/0").read_text()


def test_a_list_of_checkpoints_needs_no_download(run):
    _, _, store = run
    store.delete(["checkpoints/2/state/d/0"])
    store._set("checkpoints/3/state/d/0", b"short")
    copy = read_directory(URL)
    entries = list_checkpoints(copy.checkpoints, Retention(), verify=False)
    assert [entry["verdict"] for entry in entries] == ["complete", "damaged", "damaged"]
    assert entries[1]["damage"] == [f"{URL}/checkpoints/2/state/d/0 is missing"]
    assert entries[2]["damage"] == [f"{URL}/checkpoints/3/state/d/0 has 5 bytes, 12 were written"]
    assert entries[0]["bytes"] > 50 and names(copy.checkpoints / "1") == ["manifest.json"]


def test_verification_reads_the_objects(run):
    _, _, store = run
    store._set("checkpoints/2/state/d/0", b"state/d/0 9 ")
    entries = list_checkpoints(read_directory(URL).checkpoints, Retention(), verify=True)
    assert [entry["verdict"] for entry in entries] == ["intact", "damaged", "intact"]
    assert entries[1]["damage"] == [f"{URL}/checkpoints/2/state/d/0 has another SHA-256 than when it was written"]
    with pytest.raises(DamageFound):
        find_checkpoint(URL, "2")


def test_a_checkpoint_that_a_run_deletes_meanwhile(run):
    _, _, store = run
    copy = read_directory(URL)
    store.delete([key for key in store.objects if key.startswith("checkpoints/2/")])
    with pytest.raises(UserError, match="checkpoints/2 was deleted while it was read"):
        complete(copy.checkpoints / "2")


def test_an_evaluation_is_sent_to_the_store(run):
    _, _, store = run
    copy = read_directory(URL)
    copy.evaluation.write_text("{}")
    send_file(copy.evaluation)
    assert json.loads(store.read("evaluation.json")[0]) == {}


def test_what_is_no_run_is_refused(run, tmp_path):
    _, _, store = run
    assert is_remote_run(URL) and is_remote_run(f"{URL}/checkpoints/3") and not is_remote_run(f"{URL}/m.safetensors")
    with pytest.raises(UserError, match="checkpoints/9 holds no checkpoint with a manifest"):
        local_copy(f"{URL}/checkpoints/9", "PATH")
    for key in list(store.objects):
        if key != "config.json":
            del store.objects[key]
    assert not is_remote_run(URL), "a Hugging Face folder has a config.json too"
    del store.objects["config.json"]
    with pytest.raises(
        UserError, match=r"--workdir=s3://bucket/run holds no run \(s3://bucket/run/config.json is missing\)"
    ):
        read_directory(URL)
    assert local_copy(tmp_path, "PATH") == tmp_path and local_copy("runs/a", "PATH") == "runs/a"
