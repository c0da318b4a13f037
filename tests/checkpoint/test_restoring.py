"""Restoring train states: bit by bit, on any number of devices, and what is damaged is seen."""

import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_checkpoints import OPTIMIZER, abstract, assert_is_state, make_state, save, topology
from tiny_processes import as_processes

from jaxdp.checkpoint import restoring
from jaxdp.checkpoint.manifest import (
    committed_steps,
    find_damage,
    read_item,
    read_manifest,
    write_manifest,
)
from jaxdp.checkpoint.restoring import restore, restore_latest, restore_part
from jaxdp.errors import DamageFound, UserError
from jaxdp.optim.scaling import on_trained
from jaxdp.parallel.placement import abstract_replicated


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


def test_the_optimizer_state_of_frozen_parameters_in_older_checkpoints_is_left_out(checkpoints, make_writer):
    writer = make_writer()
    save(writer, 1)
    writer.wait()
    expected = make_state(1)
    frozen = on_trained(OPTIMIZER, (("bias", 0.0),))
    target = expected.replace(opt_state=frozen.init(expected.params))
    found = restore(checkpoints / "1", abstract_replicated(jax.eval_shape(lambda: target), topology()))
    assert jax.tree.structure(found) == jax.tree.structure(target)
    np.testing.assert_array_equal(found.opt_state[0].mu["kernel"], expected.opt_state[0].mu["kernel"])
    assert not jax.tree.leaves(found.opt_state[0].mu["bias"])
    without = expected.replace(opt_state=optax.sgd(0.1).init(expected.params))
    short = abstract_replicated(jax.eval_shape(lambda: without), topology())
    with pytest.raises(UserError, match="opt_state/0/count"):
        restore(checkpoints / "1", short)  # another optimizer


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


def restored_by_processes(checkpoints, said, num_processes=3):
    """The steps that as many processes restore, or their errors."""

    def function(control_plane):
        state = restore_latest(checkpoints, abstract(), said.append, control_plane=control_plane)
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
    calls, whole = iter(range(100)), restoring.restore

    def restore_badly(checkpoint, *arguments, **options):
        if checkpoint.name == "2" and next(calls) == 1:
            raise DamageFound("params/kernel is not what was saved.")
        return whole(checkpoint, *arguments, **options)

    monkeypatch.setattr(restoring, "restore", restore_badly)
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

    def function(control_plane):
        directory = tmp_path / "elsewhere" if control_plane.process_index == 1 else checkpoints
        return restore_latest(directory, abstract(), print, control_plane=control_plane)

    for error in as_processes(2, function):
        assert isinstance(error, UserError)
        assert "process 1 on " in str(error) and "must be one directory that all machines share" in str(error)


def positions(directory, seed, per_file):
    """Samples (file, byte, bit) in every file below a directory, including the manifest."""
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
