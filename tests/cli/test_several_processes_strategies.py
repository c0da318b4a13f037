"""Two real processes of two devices each, with values per device in their state: against one process, and resumed."""

import pytest
from tiny_processes import free_address
from tiny_runs import assert_same_bits, environment, metrics_lines, saved_arrays, start

STRATEGIES = {
    "int4": ("--config.parallel.wire_dtype=int4",),
    "delayed": ("--config.parallel.sync=delayed", "--config.parallel.delay_steps=2"),
    # The first part of a stopped run ends in the middle of a period.
    "local": (
        "--config.parallel.sync=local",
        "--config.parallel.num_workers=2",
        "--config.parallel.local_steps=2",
        "--config.parallel.wire_dtype=int4",
    ),
}
PARTS = {"int4": "gradient residuals", "delayed": "queued gradients", "local": "difference residuals"}
STEPS = 6

pytestmark = pytest.mark.slow


def run(config_file, cache, workdir, options, num_processes, steps, num_devices=4):
    """Trains up to a step; returns what the last process wrote once all have ended."""
    address, env = free_address(), environment(cache, XLA_FLAGS="--xla_backend_optimization_level=0")
    together = [f"--coordinator={address}", f"--num_processes={num_processes}"] if num_processes > 1 else []
    processes = [
        start(
            "train", f"--config={config_file}", f"--workdir={workdir}", f"--config.total_steps={steps}",
            "--config.optim.schedule=constant", "--config.checkpoint.every_steps=0", "--config.eval.every_steps=0",
            "--config.microbatch_size=4", f"--cpu_devices={num_devices // num_processes}", *options, *together,
            *([f"--process_index={index}"] if together else []), env=env,
        )
        for index in range(num_processes)
    ]  # fmt: skip
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    return err


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_are_one_and_resume_bitwise(config_file, compilation_cache, tmp_path, strategy):
    options = STRATEGIES[strategy]
    run(config_file, compilation_cache, tmp_path / "one", options, 1, STEPS)
    run(config_file, compilation_cache, tmp_path / "two", options, 2, STEPS)
    for name, tolerance in {"train/loss": 1e-4, "perf/bytes_on_wire": 0}.items():
        one, two = ([line[name] for line in metrics_lines(tmp_path / run)] for run in ("one", "two"))
        assert len(one) == STEPS and two == pytest.approx(one, rel=tolerance)
    for steps in (STEPS // 2, STEPS):
        run(config_file, compilation_cache, tmp_path / "stopped", options, 2, steps)
    assert_same_bits(saved_arrays(tmp_path / "stopped", STEPS), saved_arrays(tmp_path / "two", STEPS))
    err = run(config_file, compilation_cache, tmp_path / "one", options, 1, STEPS + 3, num_devices=2)
    assert err.count(f"dropped: {PARTS[strategy]};") == 1
    assert [line["train/skipped"] for line in metrics_lines(tmp_path / "one")] == [0] * (STEPS + 3)
