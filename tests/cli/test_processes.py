"""`jaxdp train` as real processes: signals, kills, several processes, what the environment says.

Each start costs seconds, so there are few.
"""

import json
import random
import re
import shutil
import signal
import socket
import time
from types import SimpleNamespace

import numpy as np
import pytest
from faults import KERNEL
from tiers import others_slow
from tiny_runs import (
    assert_same_bits,
    environment,
    metrics_lines,
    saved_arrays,
    start,
    start_with,
    train,
)

from jaxdp.cli.options import configuration
from jaxdp.report.goodput import goodput

LONG = ["--config.total_steps=100000", "--config.optim.schedule=constant", "--config.eval.every_steps=0"]
"""A run that is still going when the signal comes; its compiled step does not depend on its length."""


def wait_for(condition, process, secs=60.0):
    """Waits until something is true, or fails with what the process said."""
    end = time.monotonic() + secs
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"exit code {process.returncode}: {process.communicate()[1]}")
        time.sleep(0.01)


def test_sigterm_saves_and_the_same_command_goes_on(config_file, compilation_cache, tmp_path, capsys):
    command = ["train", f"--config={config_file}", f"--workdir={tmp_path}", *LONG]
    process = start(*command, env=environment(compilation_cache))
    wait_for(lambda: (tmp_path / "metrics.jsonl").is_file() and len(metrics_lines(tmp_path)) > 3, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (75, "")
    assert "SIGTERM: saving after this step; once more to stop at once\n" in err
    step = metrics_lines(tmp_path)[-1]["step"]
    assert f"stopped after step {step} of 100000; the same command continues\n" in err
    steps = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert max(steps) == step
    capsys.readouterr()
    assert train(config_file, tmp_path, *LONG, f"--config.total_steps={step + 2}") == 0
    assert f"resuming from checkpoint {step} of {step + 2} steps" in capsys.readouterr().err
    assert [line["step"] for line in metrics_lines(tmp_path)] == list(range(1, step + 3))


@pytest.mark.parametrize("num_kills", others_slow([1, 3], 1))
def test_a_kill_at_any_moment_leaves_a_run_that_goes_on_bitwise(config_file, compilation_cache, tmp_path, num_kills):
    """Kills while every step is saved; the steps are short, so most fall into a save."""
    moments, workdir, begin = random.Random(7), tmp_path / "killed", time.time()
    lost = 0
    options = [*LONG, "--config.checkpoint.every_steps=1"]
    for _ in range(num_kills):
        process = start(
            "train", f"--config={config_file}", f"--workdir={workdir}", *options, env=environment(compilation_cache)
        )
        done = saved_steps(workdir)
        wait_for(lambda done=done: saved_steps(workdir) - done, process)
        time.sleep(moments.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        lost += metrics_lines(workdir)[-1]["step"] - max(saved_steps(workdir))
    last = max(saved_steps(workdir)) + 2
    ending = [*options, f"--config.total_steps={last}"]
    assert train(config_file, workdir, *ending) == 0
    assert train(config_file, tmp_path / "unbroken", *ending, "--config.checkpoint.every_steps=0") == 0
    assert_same_bits(saved_arrays(workdir, last), saved_arrays(tmp_path / "unbroken", last))
    lines, expected = metrics_lines(workdir), metrics_lines(tmp_path / "unbroken")
    assert [line["step"] for line in lines] == list(range(1, last + 1))
    for name in ("train/loss", "data/batch_hash"):
        assert [line[name] for line in lines] == [line[name] for line in expected]
    spent = goodput(workdir)
    assert (spent.num_starts, spent.num_steps) == (num_kills + 1, last)
    assert lost <= spent.lost_steps <= lost + num_kills  # of each kill one step may be counted but not in a line yet
    assert 0 < spent.buckets["downtime"] < spent.wall_secs < time.time() - begin and min(spent.buckets.values()) >= 0


def saved_steps(workdir):
    return {
        int(path.parent.name)
        for path in workdir.glob("checkpoints/[0-9]*/manifest.json")
        if path.parent.name.isdecimal()
    }


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow  # started by the launcher: tests/launch/test_multiprocess_training.py
def test_two_processes_train_as_one(config_file, trained, compilation_cache, tmp_path, capsys):
    """Two with four devices each, against one with eight.

    Compiled without optimisation, which takes half the time; gloo, below JAX,
    greets on stdout, so that is not looked at.
    """
    together = tmp_path / "together"
    processes = [
        start(
            "train", f"--config={config_file}", f"--workdir={together}", "--cpu_devices=4",
            f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_index={index}",
            "--config.log.resources_every_secs=0.05",
            env=environment(compilation_cache, XLA_FLAGS="--xla_backend_optimization_level=0"),
        )
        for port in [free_port()]
        for index in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "devices   8 x cpu (2 processes)" in said[0][1] and "devices" not in said[1][1]
    logs = [(together / "logs" / f"process_{index}.log").read_text() for index in range(2)]
    resources = re.findall(r"resources at step \d: (.*)", logs[1])
    assert resources and json.loads(resources[0])["perf/host_memory"] > 2**20
    assert "resources at step" not in logs[0] + said[1][1]

    lines, expected = metrics_lines(together), metrics_lines(trained)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["data/batch_hash"] for line in lines] == [line["data/batch_hash"] for line in expected]
    for name in ("train/loss", "train/grad_norm"):
        np.testing.assert_allclose([line[name] for line in lines], [line[name] for line in expected], rtol=1e-6)
    losses = [[line["eval/loss"] for line in metrics_lines(run, "eval/loss")] for run in (together, trained)]
    np.testing.assert_allclose(*losses, rtol=1e-6)

    # What two have saved, one restores: the last steps again, from the checkpoint before.
    both = saved_arrays(together, 6)
    shutil.rmtree(together / "checkpoints" / "6")
    capsys.readouterr()
    assert train(config_file, together) == 0
    assert "resuming from checkpoint 3 of 6 steps" in capsys.readouterr().err
    again = saved_arrays(together, 6)
    assert again.keys() == both.keys()
    for name, array in again.items():
        np.testing.assert_allclose(array, both[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_two_processes_go_back_together_and_stop_together(config_file, compilation_cache, tmp_path, capsys):
    """Bad batches, seen by both though read by one; later a bit flips in a device of the second."""
    options = [
        "--config.total_steps=10", "--config.checkpoint.every_steps=2", "--config.eval.every_steps=0",
        "--config.optim.max_skipped_in_a_row=2", "--config.parallel.check_every_steps=1", "--cpu_devices=4",
    ]  # fmt: skip
    processes = [
        start_with(
            ["poison=5,6", "flip_after=9,5"],
            "train", f"--config={config_file}", f"--workdir={tmp_path}", *options,
            f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_index={index}",
            env=environment(compilation_cache, XLA_FLAGS="--xla_backend_optimization_level=0"),
        )
        for port in [free_port()]
        for index in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [70, 70], "".join(said)
    for err in said:
        assert "the updates of steps 6 to 7 had a non-finite loss or gradient and were skipped: going back" in err
        assert "resuming from checkpoint 2 of 10 steps" in err
        [last] = [line for line in err.splitlines() if line.startswith("jaxdp: ")]
        assert re.search(
            rf"same state after step 9: device \d+ \(process 1\) differs from the other 7 in {KERNEL}; nothing", last
        )
    assert max(saved_steps(tmp_path)) == 8
    capsys.readouterr()
    assert train(config_file, tmp_path, *options, "--cpu_devices=8") == 0
    assert "resuming from checkpoint 8 of 10 steps" in capsys.readouterr().err
    assert json.loads((tmp_path / "checkpoints" / "10" / "data" / "metadata").read_text())["exclusions"] == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("options", "variables", "fragments"),
    [
        (
            [],
            {"JAX_PLATFORMS": "cuda"},
            ["JAX finds no device to train on: ", "Unset JAX_PLATFORMS, or install jax for this hardware"],
        ),
        (
            ["--config.global_batch_size=15"],
            {"JAX_NUM_CPU_DEVICES": "2"},
            ["global_batch_size=15 does not divide over 2 devices"],
        ),
    ],
)
def test_devices_that_do_not_exist_or_do_not_fit(
    config_file, compilation_cache, tmp_path, options, variables, fragments
):
    text = config_file.read_text().replace("    config.parallel.cpu_devices = 8\n", "")
    (tmp_path / "config.py").write_text(text)
    process = start(
        "train", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}", *options,
        env=environment(compilation_cache, **variables),
    )  # fmt: skip
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "Traceback" not in err and err.startswith("jaxdp: ") and err.count("\n") == 1, err
    assert all(fragment in err for fragment in fragments), err


def test_cpu_devices_beats_the_environment(compilation_cache):
    variables = {"JAX_NUM_CPU_DEVICES": "3", "XLA_FLAGS": "--xla_force_host_platform_device_count=5"}
    process = start("devices", "--cpu_devices=2", env=environment(compilation_cache, **variables))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "works over all 2: this machine can train" in out


def test_cpu_devices_beats_the_configuration(config_file):
    """The file asks for 8."""
    options = SimpleNamespace(config=str(config_file), cpu_devices=2)
    assert configuration(options, []).parallel.cpu_devices == 2
    assert configuration(options, ["--config.parallel.cpu_devices=4"]).parallel.cpu_devices == 2
