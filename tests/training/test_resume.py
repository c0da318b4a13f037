"""Exact resume: however a run is stopped, it ends as if it had not been."""

import dataclasses
import functools
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from tiers import others_slow
from tiny_runs import assert_refused, assert_same_bits, metrics_lines, saved_arrays, train

from jaxdp.checkpoint.files import describe_files
from jaxdp.checkpoint.manifest import MANIFEST, read_manifest, write_manifest
from jaxdp.checkpoint.saving import CheckpointWriter
from jaxdp.hooks.preemption import Preemption
from jaxdp.parallel.devices import Topology
from jaxdp.training import setup as setup

pytestmark = pytest.mark.optimized

STEPS = 6


@pytest.fixture(scope="module")
def unbroken(config_file, tmp_path_factory):
    """A run that kept the checkpoint of every step."""
    workdir = tmp_path_factory.mktemp("unbroken")
    assert train(
        config_file, workdir, "--config.eval.every_steps=1", "--config.checkpoint.every_steps=1",
        f"--config.checkpoint.keep_latest={STEPS}",
    ) == 0  # fmt: skip
    return workdir


def copy_up_to(unbroken, step, workdir):
    """What a kill after the save of this step leaves: checkpoints up to it, metrics beyond."""
    shutil.copytree(unbroken, workdir)
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(workdir / "checkpoints" / str(later))


def signal_in(monkeypatch, number, wanted):
    """Sends this process a signal while a step is under way."""

    def on_dispatch(self, step, state):
        if step == wanted:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Preemption, "on_dispatch", on_dispatch)


def assert_same_lines(workdir, unbroken):
    """Each step is in metrics.jsonl once, with the numbers of the unbroken run."""
    for name in ("train/loss", "train/grad_norm", "train/learning_rate", "data/batch_hash", "eval/loss"):
        lines, expected = metrics_lines(workdir, name), metrics_lines(unbroken, name)
        assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
        assert [line[name] for line in lines] == [line[name] for line in expected]


@pytest.mark.slow
def test_stopped_in_every_evaluation_the_run_is_bitwise_the_unbroken_one(config_file, unbroken, tmp_path, monkeypatch):
    """After every step comes an evaluation, which is left; the next start makes it first."""
    for step in range(1, STEPS + 1):
        with monkeypatch.context() as patch:
            signal_in(patch, signal.SIGTERM if step % 2 else signal.SIGINT, step)
            code = train(config_file, tmp_path, "--config.eval.every_steps=1", "--config.checkpoint.every_steps=0")
        assert code == (75 if step % 2 else 130)
        assert read_manifest(tmp_path / "checkpoints" / str(step)).metrics == {}
        assert [line["step"] for line in metrics_lines(tmp_path, "eval/loss")] == list(range(1, step))
        assert_same_bits(saved_arrays(tmp_path, step), saved_arrays(unbroken, step))
    assert train(config_file, tmp_path, "--config.eval.every_steps=1") == 0
    assert_same_lines(tmp_path, unbroken)
    last, expected = (read_manifest(run / "checkpoints" / str(STEPS)) for run in (tmp_path, unbroken))
    assert last.metrics == expected.metrics and last.metrics


def test_stopped_between_evaluations_the_run_is_bitwise_the_unbroken_one(config_file, trained, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        signal_in(patch, signal.SIGTERM, 1)
        assert train(config_file, tmp_path, "--config.eval.every_steps=0") == 75
    # The next step carried the request, and one more was under way when it was read.
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]
    assert train(config_file, tmp_path, "--config.eval.every_steps=0") == 0
    assert_same_bits(saved_arrays(tmp_path, STEPS), saved_arrays(trained, STEPS))


@pytest.mark.parametrize("step", others_slow([1, 4], 4))
def test_killed_after_a_save_the_run_is_bitwise_the_unbroken_one(config_file, unbroken, tmp_path, step):
    workdir = tmp_path / "killed"
    copy_up_to(unbroken, step, workdir)
    with open(workdir / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "time": 1.0, "trai')
    assert train(config_file, workdir, "--config.eval.every_steps=1") == 0
    assert_same_bits(saved_arrays(workdir, STEPS), saved_arrays(unbroken, STEPS))
    assert_same_lines(workdir, unbroken)


def test_half_an_evaluation_in_the_metrics_is_left_out(config_file, unbroken, tmp_path):
    """The disk was full, or the kill came, while its line was written."""
    workdir = tmp_path / "torn"
    copy_up_to(unbroken, 5, workdir)
    lines = (workdir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    *_, last = (number for number, line in enumerate(lines) if b"eval/loss" in line)
    (workdir / "metrics.jsonl").write_bytes(
        b"".join(lines[:last]) + lines[last][: lines[last].index(b"eval/loss") + 12]
    )
    assert train(config_file, workdir, "--config.eval.every_steps=1", "--config.eval.patience=9") == 0
    assert_same_lines(workdir, unbroken)


@pytest.mark.slow  # test_elasticity.py: on one of eight
def test_on_fewer_devices_it_continues_within_rounding(config_file, unbroken, tmp_path, monkeypatch):
    two = Topology(tuple(jax.devices()[:2]), num_processes=1, process_index=0)
    monkeypatch.setattr(setup, "configure_backend", lambda *_, **__: None)
    monkeypatch.setattr(setup, "init_devices", lambda: two)
    workdir = tmp_path / "moved"
    copy_up_to(unbroken, 3, workdir)
    options = ["--cpu_devices=2", "--config.microbatch_size=4", "--config.eval.every_steps=1"]
    assert train(config_file, workdir, *options) == 0
    arrays, expected = saved_arrays(workdir, STEPS), saved_arrays(unbroken, STEPS)
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    lines, wanted = metrics_lines(workdir), metrics_lines(unbroken)
    assert [line["data/batch_hash"] for line in lines] == [line["data/batch_hash"] for line in wanted]
    np.testing.assert_allclose(
        [line["train/loss"] for line in lines], [line["train/loss"] for line in wanted], rtol=1e-5
    )


@pytest.mark.slow  # as the extended run below
def test_a_longer_run_continues_a_finished_one(config_file, tmp_path, capsys):
    constant = "--config.optim.schedule=constant"  # so that the compiled step serves any length
    assert train(config_file, tmp_path, constant, "--config.total_steps=3") == 0
    capsys.readouterr()
    assert train(config_file, tmp_path, constant, "--config.total_steps=3") == 0
    assert capsys.readouterr().err == f"{tmp_path} has finished its 3 steps; a larger total_steps continues it.\n"
    before = (tmp_path / "config.json").read_text()
    assert train(config_file, tmp_path, constant, "--config.total_steps=5", "--config.log.every_steps=2") == 0
    assert "resuming from checkpoint 3 of 5 steps" in capsys.readouterr().err
    assert (tmp_path / "config.3.json").read_text() == before
    assert [line["step"] for line in metrics_lines(tmp_path)] == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "5"]


def test_an_extended_run_says_that_its_learning_rate_rises_again(config_file, trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "extended")
    assert train(config_file, workdir, "--config.total_steps=8", "--config.eval.every_steps=0") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "total_steps changed from 6 to 8, which changes the cosine schedule: the learning rate was 0.000146 at step 6 and is "
        in said
    )
    rate = metrics_lines(workdir, "train/learning_rate")[5]["train/learning_rate"]
    assert rate == pytest.approx(1e-3 * (1 + np.cos(0.75 * np.pi)) / 2)
    assert (workdir / "config.6.json").read_text() == (trained / "config.json").read_text()


def test_the_best_so_far_is_known_after_a_resume(config_file, tmp_path, monkeypatch):
    """Nothing changes, so that the first evaluation stays the best."""
    save, saved = CheckpointWriter.save, []

    def recording_save(writer, step, *given):
        saved.append(step)
        save(writer, step, *given)

    monkeypatch.setattr(CheckpointWriter, "save", recording_save)
    options = [
        "--config.optim.schedule=constant", "--config.optim.learning_rate=1e-12", "--config.eval.metric=eval/accuracy",
        "--config.eval.every_steps=1", "--config.checkpoint.every_steps=0", "--config.checkpoint.keep_latest=1",
        "--config.optim.max_skipped_in_a_row=1",
    ]  # fmt: skip
    assert train(config_file, tmp_path, *options, "--config.total_steps=3") == 0
    assert sorted(set(saved)) == [1, 3]
    saved.clear()
    assert train(config_file, tmp_path, *options, "--config.total_steps=6") == 0
    assert sorted(set(saved)) == [6]
    assert "1" in {path.name for path in (tmp_path / "checkpoints").iterdir()}


def test_a_signal_in_the_last_step_changes_nothing(config_file, unbroken, tmp_path, monkeypatch, capsys):
    workdir = tmp_path / "last"
    copy_up_to(unbroken, 5, workdir)
    signal_in(monkeypatch, signal.SIGTERM, STEPS)
    assert train(config_file, workdir, "--config.eval.num_batches=1") == 0
    assert f"finished 6 steps; everything is in {workdir}" in capsys.readouterr().err
    assert_same_bits(saved_arrays(workdir, STEPS), saved_arrays(unbroken, STEPS))


def forget(checkpoint, *keys):
    """The checkpoint as a jaxdp wrote it that did not know these keys."""
    path = checkpoint / "config" / "metadata"
    config = json.loads(path.read_text())
    for key in keys:
        *groups, last = key.split(".")
        del functools.reduce(dict.__getitem__, groups, config)[last]
    path.write_text(json.dumps(config))
    files = {name: found for name, found in describe_files(checkpoint).items() if name != MANIFEST}
    write_manifest(checkpoint, dataclasses.replace(read_manifest(checkpoint), files=files))


def test_a_run_continues_that_did_not_know_all_keys_of_today(config_file, trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "old")
    forget(workdir / "checkpoints" / str(STEPS), "causal_lm", "data.errors", "model.norm_epsilon", "optim.spike_factor")
    assert train(config_file, workdir) == 0
    assert "has finished its 6 steps" in capsys.readouterr().err
    options = ["--config.causal_lm.separator=x", "--config.model.norm_epsilon=0.001", "--config.optim.spike_factor=3"]
    assert train(config_file, workdir, *options) == 2
    sentence = assert_refused(capsys)
    assert sentence.splitlines()[1:-1] == [
        "  model.norm_epsilon: 1e-05 in the run, 0.001 now",
        "  optim.spike_factor: 0.0 in the run, 3.0 now",
        "  causal_lm.separator: '\\n' in the run, 'x' now",
    ]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "file", others_slow(["config/metadata", "manifest.json", "state/_METADATA"], "manifest.json", "state/_METADATA")
)
def test_a_damaged_newest_checkpoint_is_set_aside_even_when_the_run_was_done(
    config_file, trained, tmp_path, capsys, file
):
    workdir = shutil.copytree(trained, tmp_path / "damaged")
    expected = saved_arrays(trained, STEPS)
    flip_a_bit(workdir / "checkpoints" / "6" / file)
    assert train(config_file, workdir) == 0
    err = capsys.readouterr().err
    aside = workdir / "checkpoints" / "6.damaged"
    assert f"checkpoint 6 is damaged and set aside as {aside}: {workdir}/checkpoints/6/{file} " in err
    assert "resuming from checkpoint 3 of 6 steps" in err
    assert_same_bits(saved_arrays(workdir, STEPS), expected)
    assert aside.is_dir()


def test_when_all_are_damaged_the_run_does_not_start_over_by_itself(config_file, trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "damaged")
    for step in (3, 6):
        flip_a_bit(workdir / "checkpoints" / str(step) / "manifest.json")
    assert train(config_file, workdir) == 4
    assert f"every checkpoint in {workdir / 'checkpoints'} is damaged and set aside" in capsys.readouterr().err
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"3.damaged", "6.damaged"}


def test_leftovers_of_a_kill_are_removed_with_a_sentence(config_file, unbroken, tmp_path, capsys):
    workdir = tmp_path / "killed"
    copy_up_to(unbroken, 5, workdir)
    checkpoints = workdir / "checkpoints"
    shutil.copytree(checkpoints / "5", checkpoints / "6")
    (checkpoints / "6" / "manifest.json").unlink()
    (checkpoints / "7.orbax-checkpoint-tmp").mkdir()
    (checkpoints / "7.saving-0a1b").mkdir()
    (checkpoints / "1").rename(checkpoints / "1.deleting")
    assert train(config_file, workdir) == 0
    err = capsys.readouterr().err
    for name in ("7.orbax-checkpoint-tmp", "7.saving-0a1b", "1.deleting"):
        assert f"removed {checkpoints / name}, which an interrupted save or deletion left behind\n" in err
    # It may have been whole once, so it is not deleted.
    assert f"{checkpoints / '6'} has no manifest.json, so nothing tells whether it is whole; it is set aside as" in err
    assert "resuming from checkpoint 5 of 6 steps" in err
    assert sorted(path.name for path in checkpoints.iterdir()) == ["2", "5", "6", "6.damaged"]
    assert_same_bits(saved_arrays(workdir, STEPS), saved_arrays(unbroken, STEPS))
    assert "left behind" in (workdir / "logs" / "process_0.log").read_text()
