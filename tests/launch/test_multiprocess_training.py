"""launch/process_group.py with real processes: the losses of one process, also after one of them was killed."""

import shlex
import subprocess
import sys

import pytest
from fake_machine import BASH, SOURCE
from tiny_runs import compilation_cache, config_file, environment, metrics_lines, trained

__all__ = ["compilation_cache", "config_file", "trained"]

# The first start of process 0 is killed after its first checkpoint.
JAXDP = """#!{bash}
case "$*" in *--process_index=0*)
  if [ ! -e {root}/killed ]; then : >{root}/killed; exec {python} {faults} die_after_checkpoint={step} -- "$@"; fi ;;
esac
exec {python} -m jaxdp "$@"
"""


def losses(workdir):
    return [(line["step"], line["train/loss"]) for line in metrics_lines(workdir)]


def launched(root, cache, num_processes, cpu_devices, checkpoint, *command, timeout):
    """Trains by the supervisor in a folder; returns its stderr."""
    script = root / "bin/jaxdp"
    script.parent.mkdir(parents=True)
    values = {"root": root, "faults": SOURCE / "tests/faults.py", "step": checkpoint, "bash": BASH}
    script.write_text(JAXDP.format(python=sys.executable, **{key: shlex.quote(str(v)) for key, v in values.items()}))
    script.chmod(0o755)
    variables = environment(cache, JAXDP_PAUSE_SECS="0", PYTHONPATH=str(SOURCE), JAX_PLATFORMS="cpu")
    variables["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles faster
    outcome = subprocess.run(
        [
            sys.executable, str(SOURCE / "launch/process_group.py"), f"--processes={num_processes}", "--restarts=1",
            f"--cpu_devices={cpu_devices}", "--", "train", f"--workdir={root}/run", *command,
        ],
        env=variables | {"PATH": f"{script.parent}:{variables['PATH']}"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stderr


def assert_killed_once(root, num_processes, stderr, checkpoint):
    """Checks that process 0 was killed, that all went on from the checkpoint, and that one log tells it."""
    merged = (root / "run/logs/merged.log").read_text()
    assert merged == stderr
    assert f"jaxdp: process 0 of {num_processes} ended with exit code 137 (SIGKILL)\n" in merged
    assert merged.count("restarting (1 of 1)") == 1 and merged.count("; restarting (") == 1
    assert f"[0] resuming from checkpoint {checkpoint} of " in merged
    for index in range(num_processes):
        assert f"[{index}] finished " in merged


@pytest.mark.parametrize("num_processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_train_to_the_losses_of_one_although_one_is_killed(
    config_file, compilation_cache, trained, tmp_path, num_processes
):
    stderr = launched(
        tmp_path, compilation_cache, num_processes, 8 // num_processes, 3, f"--config={config_file}", timeout=500
    )
    assert_killed_once(tmp_path, num_processes, stderr, checkpoint=3)
    steps, expected = zip(*losses(trained), strict=True)
    assert [step for step, _ in losses(tmp_path / "run")] == list(steps)
    assert [loss for _, loss in losses(tmp_path / "run")] == pytest.approx(expected, abs=1e-4)
    for name in ("train/loss", "train/grad_norm", "eval/loss"):
        found, wanted = ([line[name] for line in metrics_lines(run, name)] for run in (tmp_path / "run", trained))
        assert found == pytest.approx(wanted, rel=1e-6), name
    hashes, wanted = ([line["data/batch_hash"] for line in metrics_lines(run)] for run in (tmp_path / "run", trained))
    assert hashes == wanted


@pytest.mark.slow
def test_the_quickstart_on_two_and_four_processes_has_the_losses_of_one(compilation_cache, tmp_path):
    """Rounding differs between 1, 2 and 4 devices, and after about 150 steps grows to 1e-4, so these are fewer."""
    command = ("--config=quickstart", "--config.total_steps=100", "--config.eval.every_steps=50")
    command += ("--config.checkpoint.every_steps=50", "--config.log.every_steps=10")
    for num_processes in (1, 2, 4):
        root = tmp_path / str(num_processes)
        stderr = launched(root, compilation_cache, num_processes, 1, 50, *command, timeout=3000)
        if num_processes > 1:
            assert_killed_once(root, num_processes, stderr, checkpoint=50)
    one, two, four = ([loss for _, loss in losses(tmp_path / name / "run")] for name in ("1", "2", "4"))
    assert two == pytest.approx(one, abs=1e-4)
    assert four == pytest.approx(one, abs=1e-4)
