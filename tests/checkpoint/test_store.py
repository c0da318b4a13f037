"""Saving and restoring train states: whole or absent, and what is damaged is seen."""

import json
import random
import resource
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from tiny_peers import as_processes

from jaxdp.checkpoint import store
from jaxdp.checkpoint.manifest import (
    committed_steps,
    find_damage,
    read_item,
    read_manifest,
    write_manifest,
)
from jaxdp.checkpoint.retention import Retention, remove_leftovers
from jaxdp.checkpoint.store import CheckpointWriter, restore, restore_latest, restore_part
from jaxdp.errors import DamageFound, UserError
from jaxdp.parallel.devices import Topology
from jaxdp.parallel.placement import abstract_replicated
from jaxdp.state import initial_state

OPTIMIZER = optax.adam(0.1)


def topology(num_devices=8):
    return Topology(tuple(jax.devices()[:num_devices]), num_processes=1, process_index=0)


def make_state(step, num_columns=3):
    """A state whose every value depends on the step."""
    params = {"kernel": jnp.arange(2.0 * num_columns).reshape(2, num_columns) + step, "bias": jnp.full(3, step / 3)}
    state = initial_state(params, OPTIMIZER, with_ema=True).replace(
        step=jnp.int32(step), ema=jax.tree.map(lambda leaf: 2 * leaf, params)
    )
    return jax.device_put(state, topology().replicated)


def abstract(num_columns=3, num_devices=8):
    return abstract_replicated(jax.eval_shape(lambda: make_state(0, num_columns)), topology(num_devices))


@pytest.fixture
def make_writer(tmp_path):
    """Writers into tmp_path/checkpoints; closed at the end, whatever a pending save has to say."""
    writers = []

    def make(retention=None, async_save=True):
        retention = retention or Retention(keep_latest=9)
        writers.append(CheckpointWriter(tmp_path / "checkpoints", retention, abstract(), async_save=async_save))
        return writers[-1]

    yield make
    for writer in writers:
        writer.close()


@pytest.fixture
def checkpoints(tmp_path, make_writer):
    return tmp_path / "checkpoints"


def save(writer, step, metrics=None):
    writer.save(step, make_state(step), {"step": step}, {"seed": step}, metrics or {})


def assert_is_state(state, step):
    expected = make_state(step)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for leaf, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert leaf.dtype == wanted.dtype
        assert np.asarray(leaf).tobytes() == np.asarray(wanted).tobytes()


@pytest.mark.parametrize("async_save", [True, False])
def test_state_returns_bitwise_and_placed(checkpoints, make_writer, async_save):
    writer = make_writer(async_save=async_save)
    save(writer, 1, {"eval/loss": 2.5, "eval/other": float("nan")})
    if async_save:
        writer.wait()
    state = restore(checkpoints / "1", abstract())
    assert_is_state(state, 1)
    assert state.params["kernel"].sharding == topology().replicated
    assert read_item(checkpoints / "1", "data") == {"step": 1}
    assert read_item(checkpoints / "1", "config") == {"seed": 1}
    assert read_manifest(checkpoints / "1").metrics == {"eval/loss": 2.5, "eval/other": None}


def test_state_returns_on_fewer_devices_and_in_parts(checkpoints, make_writer):
    writer = make_writer()
    save(writer, 1)
    writer.wait()
    assert_is_state(restore(checkpoints / "1", abstract(num_devices=2)), 1)
    ema = restore_part(checkpoints / "1", "ema", abstract(num_devices=1).params)
    np.testing.assert_array_equal(ema["kernel"], 2 * make_state(1).params["kernel"])
    host = restore_part(checkpoints / "1", "params", jax.tree.map(np.asarray, make_state(0).params))
    assert isinstance(host["bias"], np.ndarray)


def test_manifest_lists_every_file_and_every_array(checkpoints, make_writer):
    writer = make_writer()
    save(writer, 7)
    writer.wait()
    manifest = read_manifest(checkpoints / "7")
    on_disk = {path.relative_to(checkpoints / "7").as_posix() for path in (checkpoints / "7").rglob("*") if path.is_file()}
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
        assert directory.name == "2" and (directory / "commit_success.txt").exists()  # Orbax is done
        raise OSError("killed")

    monkeypatch.setattr(store, "write_manifest", die)
    save(writer, 2)
    with pytest.raises(UserError, match="killed"):
        writer.wait()
    assert committed_steps(checkpoints) == [1]
    assert_is_state(restore_latest(checkpoints, abstract(), print), 1)
    assert remove_leftovers(checkpoints) == ["2"]


def test_save_returns_at_once_and_the_state_may_then_be_donated(checkpoints, make_writer, monkeypatch):
    writer, go_on = make_writer(), threading.Event()

    def wait_and_write(*arguments):
        go_on.wait(30)
        write_manifest(*arguments)

    monkeypatch.setattr(store, "write_manifest", wait_and_write)
    state = make_state(1)
    writer.save(1, state, {}, {}, {})
    jax.tree.map(lambda leaf: leaf.delete(), state)
    writer.check()  # still writing: nothing to say, and no waiting
    assert committed_steps(checkpoints) == []
    go_on.set()
    writer.wait()
    assert_is_state(restore(checkpoints / "1", abstract()), 1)


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


def test_a_failed_save_is_told_at_the_next_check(checkpoints, make_writer, monkeypatch):
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
        "whole checkpoints there: 1; make room or mend the directory and run the same command again."
    )
    writer.check()  # told once


def test_a_failed_save_can_be_made_again(checkpoints, make_writer, monkeypatch):
    writer = make_writer()
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_manifest", lambda *_: (_ for _ in ()).throw(OSError("broken")))
        save(writer, 1)
        with pytest.raises(UserError, match="broken"):
            writer.wait()
    remove_leftovers(checkpoints)
    save(writer, 1)
    writer.wait()
    assert committed_steps(checkpoints) == [1]


@pytest.mark.parametrize("obstacle", ["a file for the directory", "the step is there already"])
def test_what_makes_a_save_impossible_is_told(checkpoints, make_writer, obstacle):
    writer = make_writer()
    if obstacle == "the step is there already":
        (checkpoints / "1").mkdir()
    else:
        checkpoints.rmdir()
        checkpoints.write_text("")
    with pytest.raises(UserError, match=r"checkpoint 1 could not be written to .*: .*; whole checkpoints there: none"):
        save(writer, 1)
        writer.wait()


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def test_a_flipped_bit_in_any_file_is_found_and_the_checkpoint_before_is_used(checkpoints, make_writer):
    writer = make_writer()
    for step in (1, 2):
        save(writer, step)
        writer.wait()
    files = sorted(path.relative_to(checkpoints / "2") for path in (checkpoints / "2").rglob("*") if path.is_file())
    assert len(files) > 15
    for number, file in enumerate(files):
        shutil.copytree(checkpoints / "2", checkpoints / "10")
        if not (checkpoints / "10" / file).stat().st_size:
            (checkpoints / "10" / file).write_bytes(b"\1")
        else:
            flip_a_bit(checkpoints / "10" / file)
        with pytest.raises(DamageFound, match=str(file)):
            restore(checkpoints / "10", abstract())
        shutil.rmtree(checkpoints / "10")
        if number % 6 == 0:  # the same by way of the run; each takes a whole restore
            flip_a_bit(checkpoints / "2" / file)
            said = []
            assert_is_state(restore_latest(checkpoints, abstract(), said.append), 1)
            [sentence] = said
            assert sentence.startswith(f"checkpoint 2 is damaged and set aside as {checkpoints}/2.damaged")
            assert str(checkpoints / "2" / file) in sentence
            aside = checkpoints / ("2.damaged" if number == 0 else f"2.damaged.{number // 6 + 1}")
            assert aside.is_dir() and committed_steps(checkpoints) == [1]
            shutil.copytree(aside, checkpoints / "2")
            flip_a_bit(checkpoints / "2" / file)


def test_when_all_are_damaged_it_says_so(checkpoints, make_writer):
    writer = make_writer()
    for step in (1, 2):
        save(writer, step)
        writer.wait()
        flip_a_bit(checkpoints / str(step) / "manifest.json")
    said = []
    with pytest.raises(DamageFound, match=r"every checkpoint in .* is damaged and set aside"):
        restore_latest(checkpoints, abstract(), said.append)
    assert len(said) == 2
    assert {path.name for path in checkpoints.iterdir()} == {"1.damaged", "2.damaged"}
    assert restore_latest(checkpoints, abstract(), said.append) is None


def test_a_restored_value_that_is_not_the_trained_one_is_damage(checkpoints, make_writer):
    """The files are whole and still the values differ: only the checksum of the device can tell."""
    writer = make_writer()
    save(writer, 1)
    writer.wait()
    path = checkpoints / "1" / "manifest.json"
    manifest = read_manifest(checkpoints / "1")
    [leaf] = [leaf for leaf in manifest.leaves if leaf["path"] == "params/kernel"]
    leaf["checksum"] ^= 1
    write_manifest(path.parent, manifest)
    with pytest.raises(DamageFound, match=r"params/kernel restored from .*/1 is not what was saved"):
        restore(checkpoints / "1", abstract())


def test_another_model_is_refused_with_both_sides(checkpoints, make_writer):
    writer = make_writer()
    save(writer, 1)
    writer.wait()
    with pytest.raises(UserError) as refusal:
        restore(checkpoints / "1", abstract(num_columns=4))
    saved, wanted = str(refusal.value).splitlines()[1:3]
    assert "only in the checkpoint:    ema/kernel float32[2, 3], opt_state/0/mu/kernel float32[2, 3]" in saved
    assert "only in the configuration: ema/kernel float32[2, 4], opt_state/0/mu/kernel float32[2, 4]" in wanted
    with pytest.raises(UserError, match=r"params/kernel float32\[2, 3\]\n.*params/kernel float32\[2, 4\]"):
        restore_part(checkpoints / "1", "params", abstract(num_columns=4).params)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), make_state(0).params)
    with pytest.raises(UserError, match=r"params/bias float32\[3\].*\n.*params/bias bfloat16\[3\]"):
        restore_part(checkpoints / "1", "params", half)


def test_manifest_is_json(checkpoints, make_writer):
    writer = make_writer()
    save(writer, 1, {"eval/loss": float("inf")})
    writer.wait()

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads((checkpoints / "1" / "manifest.json").read_text(), parse_constant=refuse)


def restored_by_processes(checkpoints, said, num_processes=3):
    """The steps that as many processes restore, or their errors."""

    def function(peers):
        state = restore_latest(checkpoints, abstract(), said.append, peers=peers)
        return None if state is None else int(state.step)

    return as_processes(num_processes, function)


def test_all_processes_set_the_same_checkpoint_aside(checkpoints, make_writer):
    writer = make_writer()
    for step in (1, 2, 3):
        save(writer, step)
        writer.wait()
    said = []
    assert restored_by_processes(checkpoints, said) == [3, 3, 3] and said == []
    flip_a_bit(checkpoints / "3" / "manifest.json")
    flip_a_bit(checkpoints / "2" / "state" / "_METADATA")
    assert restored_by_processes(checkpoints, said) == [1, 1, 1]
    assert {path.name for path in checkpoints.iterdir()} == {"1", "2.damaged", "3.damaged"}
    assert len(said) == 6 and len(set(said)) == 2  # each process says both


def test_what_one_process_finds_damaged_no_process_uses(checkpoints, make_writer, monkeypatch):
    """Its memory or its way to the file system may be what is broken."""
    writer = make_writer()
    for step in (1, 2):
        save(writer, step)
        writer.wait()
    calls, whole = iter(range(100)), store.restore

    def restore_badly(checkpoint, *arguments, **options):
        if checkpoint.name == "2" and next(calls) == 1:
            raise DamageFound("params/kernel is not what was saved.")
        return whole(checkpoint, *arguments, **options)

    monkeypatch.setattr(store, "restore", restore_badly)
    said = []
    assert restored_by_processes(checkpoints, said) == [1, 1, 1]
    assert set(said) == {
        f"checkpoint 2 is damaged and set aside as {checkpoints}/2.damaged: params/kernel is not what was saved."
    }


def test_processes_that_see_different_directories_are_refused(checkpoints, make_writer, tmp_path):
    writer = make_writer()
    save(writer, 1)
    writer.wait()
    shutil.copytree(checkpoints, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "1" / "manifest.json").unlink()

    def function(peers):
        directory = tmp_path / "elsewhere" if peers.process_index == 1 else checkpoints
        return restore_latest(directory, abstract(), print, peers=peers)

    for error in as_processes(2, function):
        assert isinstance(error, UserError)
        assert "process 1 on " in str(error) and "must be one directory that all machines share" in str(error)


def test_a_directory_that_is_gone_is_told_and_not_made_again(checkpoints, make_writer):
    """What is left where a file system was mounted must not fill up instead of it."""
    writer = make_writer()
    save(writer, 1)
    writer.wait()
    checkpoints.rename(checkpoints.with_name("unmounted"))
    with pytest.raises(UserError, match=r"checkpoint 2 could not be written to .*: the directory is gone; whole .* none"):
        save(writer, 2)
    assert not checkpoints.exists()
    checkpoints.with_name("unmounted").rename(checkpoints)
    save(writer, 2)
    writer.wait()
    assert committed_steps(checkpoints) == [1, 2]


def test_the_time_of_a_save_is_known(checkpoints, make_writer):
    writer = make_writer()
    assert writer.longest_save_secs == 0.0
    save(writer, 1)
    writer.wait()
    assert writer.longest_save_secs > 0.0


def positions(directory, seed, per_file):
    """(file, byte, bit) drawn in every file below a directory, its manifest among them."""
    drawn = random.Random(seed)
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.stat().st_size:
            for _ in range(per_file):
                yield path, drawn.randrange(path.stat().st_size), drawn.randrange(8)


def test_any_flipped_bit_of_any_file_is_found(checkpoints, make_writer):
    writer = make_writer()
    save(writer, 1)
    writer.wait()
    flips = list(positions(checkpoints / "1", 0, 6))
    assert len(flips) >= 50
    for path, byte, bit in flips:
        content = path.read_bytes()
        path.write_bytes(content[:byte] + bytes([content[byte] ^ 1 << bit]) + content[byte + 1 :])
        assert find_damage(checkpoints / "1"), (path, byte, bit)
        path.write_bytes(content)
    assert find_damage(checkpoints / "1") == []


def test_a_save_that_does_not_fit_is_told_and_the_one_before_is_whole(tmp_path):
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
        "make room or mend the directory and run the same command again."
    )
    state = restore_latest(checkpoints, abstract(num_columns=30000), print)
    np.testing.assert_array_equal(state.params["kernel"], make_state(1, num_columns=30000).params["kernel"])
    assert remove_leftovers(checkpoints) == ["2.orbax-checkpoint-tmp"]
