"""Runs with `parallel.sync=local`: against `pmean`, with other numbers of workers, and what reads their checkpoints."""

import json
import shutil

import faults
import numpy as np
import pytest
from tiny_processes import free_address
from tiny_runs import assert_refused, assert_same_bits, environment, metrics_lines, saved_arrays, start, train

from jaxdp.cli.main import main

LOCAL = ["--config.parallel.sync=local", "--config.parallel.local_steps=4"]
PLAIN = ["--config.parallel.outer_learning_rate=1", "--config.parallel.outer_momentum=0"]
SGD = [
    "--config.optim.name=sgd",
    "--config.optim.momentum=0",
    "--config.optim.clip_norm=0",
    "--config.optim.learning_rate=0.1",
]
"""Twenty steps with dropout, two microbatches and EMA."""


@pytest.fixture(scope="module")
def run(config_file, tmp_path_factory):
    """A run of four workers, stopped in the middle of a period."""
    workdir = tmp_path_factory.mktemp("local")
    assert train(config_file, workdir, *LOCAL, "--config.parallel.num_workers=4") == 0
    return workdir


@pytest.fixture(scope="module")
def with_pmean(config_file, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pmean")
    assert train(config_file, workdir, *SGD, "--config.total_steps=20") == 0
    return workdir


@pytest.mark.slow  # one step: tests/parallel/strategies/test_local.py
@pytest.mark.parametrize("num_workers", [8, 2])
def test_plain_averages_of_sgd_after_every_step_are_pmean(config_file, with_pmean, tmp_path, num_workers):
    options = [*SGD, *PLAIN, "--config.parallel.sync=local", "--config.parallel.local_steps=1"]
    count = f"--config.parallel.num_workers={num_workers}"
    assert train(config_file, tmp_path, *options, count, "--config.total_steps=20") == 0
    for name in ("train/loss", "eval/loss"):
        losses, expected = ([line[name] for line in metrics_lines(run, name)] for run in (tmp_path, with_pmean))
        np.testing.assert_allclose(losses, expected, rtol=1e-6)
    hashes, expected = ([line["data/batch_hash"] for line in metrics_lines(run)] for run in (tmp_path, with_pmean))
    assert hashes == expected
    arrays = saved_arrays(tmp_path, 20)
    for name, array in saved_arrays(with_pmean, 20).items():
        np.testing.assert_allclose(arrays[name], array, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.slow  # test_strategy_resume.py: another strategy and back
def test_other_workers_and_other_strategies_continue_from_the_averages(config_file, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    capsys.readouterr()
    own = "of the checkpoint's own state of parallel.sync="
    steps = [
        (["--config.parallel.num_workers=2", *LOCAL], f"{own}local, dropped: token weights and worker states; of parallel.sync=local, "),
        (["--config.parallel.sync=zero3"], f"{own}local, dropped: outer momentum, outer params, token weights and worker states; of "),
        (LOCAL, f"{own}zero3, dropped: nothing; of parallel.sync=local, initialised from the parameters: outer momentum, outer params, "),
    ]  # fmt: skip
    total = 6
    for options, said in steps:
        total += 2
        assert train(config_file, tmp_path, *options, f"--config.total_steps={total}") == 0
        err = capsys.readouterr().err
        assert err.count(said) == 1 and err.index(said) < err.index(f"step {total - 1}")
    losses = [line["train/loss"] for line in metrics_lines(tmp_path)]
    assert len(losses) == total and np.isfinite(losses).all()


def test_its_checkpoints_are_read_like_any_other(run, capsys):
    capsys.readouterr()
    assert main(["inspect", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["params"] and all(leaf["shape"][:1] != [4] for leaf in found["params"])
    assert main(["inspect", str(run), "--verify"]) == 0
    capsys.readouterr()
    assert main(["eval", f"--workdir={run}", "--weights=raw", "--json"]) == 0
    assert np.isfinite(json.loads(capsys.readouterr().out)["eval/loss"])
    assert main(["generate", f"--workdir={run}", "--prompt=the", "--max_new_tokens=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "the"


@pytest.mark.slow  # the averages: tests/parallel/strategies/test_local.py
def test_evaluation_in_training_is_that_of_the_checkpoint(config_file, tmp_path, capsys):
    """Without a moving average, in the middle of a period."""
    options = [*LOCAL, "--config.optim.ema_decay=0", "--config.eval.num_batches=0"]
    assert train(config_file, tmp_path, *options) == 0
    [*_, line] = metrics_lines(tmp_path, "eval/loss")
    capsys.readouterr()
    assert main(["eval", f"--workdir={tmp_path}", "--json"]) == 0
    np.testing.assert_allclose(json.loads(capsys.readouterr().out)["eval/loss"], line["eval/loss"], rtol=1e-6)


@pytest.mark.slow  # of the parameters: test_replicas_differ.py
def test_a_flipped_bit_in_the_outer_parameters_stops_the_run(config_file, run, tmp_path, capsys, monkeypatch):
    kernel = f"sync/outer_{faults.KERNEL}"
    flipped = faults.flip_after(monkeypatch.setattr, 5, 3, name=kernel)
    options = [*LOCAL, "--config.parallel.num_workers=4"]
    assert train(config_file, tmp_path, *options) == 70
    assert flipped
    assert f"differs from the other 7 in {kernel}" in assert_refused(capsys, 70)
    monkeypatch.undo()
    assert train(config_file, tmp_path, *options) == 0
    assert_same_bits(saved_arrays(tmp_path, 6), saved_arrays(run, 6))


@pytest.mark.slow
@pytest.mark.parametrize(("num_processes", "num_workers"), [(2, 4), (2, 2), (2, 1), (4, 2)])
def test_processes_are_like_one(config_file, compilation_cache, tmp_path, num_processes, num_workers):
    """Also saved by all, in the middle of a period, and resumed by all."""
    count = f"--config.parallel.num_workers={num_workers}"
    options = [*LOCAL, count, "--config.microbatch_size=2", "--config.optim.schedule=constant"]
    assert train(config_file, tmp_path / "one", *options, "--cpu_devices=4") == 0
    for stop in (3, 6):
        address = free_address()
        processes = [
            start(
                "train", f"--config={config_file}", f"--workdir={tmp_path / 'several'}", *options, f"--cpu_devices={4 // num_processes}",
                f"--config.total_steps={stop}",
                f"--coordinator={address}", f"--num_processes={num_processes}", f"--process_index={index}",
                env=environment(compilation_cache),
            )
            for index in range(num_processes)
        ]  # fmt: skip
        said = [process.communicate(timeout=300)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * num_processes, said
        assert stop == 3 or f"resuming from checkpoint 3 of {stop} steps" in said[1]
        assert stop == 3 or "own state" not in said[0]
    for name in ("train/loss", "train/grad_norm", "eval/loss"):
        values, expected = ([line[name] for line in metrics_lines(tmp_path / run, name)] for run in ("several", "one"))
        assert len(values) == len(expected)
        np.testing.assert_allclose(values, expected, rtol=1e-5)
