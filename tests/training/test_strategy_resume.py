"""Exact resume of strategies that keep values per device, and runs that save more or less often."""

import shutil

import pytest
from tiers import others_slow
from tiny_runs import assert_same_bits, metrics_lines, saved_arrays, train

STEPS, STOP = 6, 4
STRATEGIES = {
    "int8": ["--config.parallel.sync=pmean", "--config.parallel.wire_dtype=int8"],
    "int4": ["--config.parallel.sync=pmean", "--config.parallel.wire_dtype=int4"],
    "delayed": ["--config.parallel.sync=delayed", "--config.parallel.delay_steps=3"],
    # Checkpoint 4 is in the middle of a period.
    "local": [
        "--config.parallel.sync=local",
        "--config.parallel.num_workers=4",
        "--config.parallel.local_steps=5",
        "--config.parallel.wire_dtype=int4",
    ],
}
OWN_VALUES = {"pmean": ("gradient_residuals", 8), "delayed": ("queued_gradients", 8), "local": ("worker_states", 4)}
"""Part of the state that differs between devices, and the number of values that a checkpoint has of it."""


def strategy_of(options):
    [sync] = [option.split("=")[-1] for option in options if "sync" in option]
    return sync


@pytest.fixture(scope="module", params=others_slow(STRATEGIES, "delayed", "local"))
def unbroken(request, config_file, tmp_path_factory):
    """Options and work directory of a run that kept the checkpoint of every step."""
    workdir, options = tmp_path_factory.mktemp(request.param), STRATEGIES[request.param]
    often = ["--config.checkpoint.every_steps=1", f"--config.checkpoint.keep_latest={STEPS}"]
    assert train(config_file, workdir, *often, *options) == 0
    return options, workdir


def test_the_resumed_run_is_bitwise_the_unbroken_one(unbroken, config_file, tmp_path):
    options, workdir = unbroken
    shutil.copytree(workdir, tmp_path / "resumed")
    for later in range(STOP + 1, STEPS + 1):
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / str(later))
    assert train(config_file, tmp_path / "resumed", *options) == 0
    assert_same_bits(saved_arrays(tmp_path / "resumed", STEPS), saved_arrays(workdir, STEPS))
    for name in ("train/loss", "train/grad_norm", "train/learning_rate", "eval/loss"):
        lines, expected = metrics_lines(tmp_path / "resumed", name), metrics_lines(workdir, name)
        assert [(line["step"], line[name]) for line in lines] == [(line["step"], line[name]) for line in expected]


def test_values_per_device_are_saved(unbroken):
    options, workdir = unbroken
    part, count = OWN_VALUES[strategy_of(options)]
    arrays = {name: array for name, array in saved_arrays(workdir, STEPS).items() if part in name and array.ndim > 1}
    assert arrays
    for name, array in arrays.items():
        assert array.shape[0] == count and array.any(), name
        assert (array[0] != array[1]).any(), name


@pytest.mark.slow  # the resumed run saved more rarely above
def test_saving_changes_nothing(unbroken, config_file, tmp_path):
    options, workdir = unbroken
    assert train(config_file, tmp_path, "--config.checkpoint.every_steps=0", *options) == 0
    assert_same_bits(saved_arrays(tmp_path, STEPS), saved_arrays(workdir, STEPS))


@pytest.mark.parametrize("unbroken", others_slow(STRATEGIES, "local"), indirect=True)
def test_another_strategy_drops_the_state_and_says_so(unbroken, config_file, tmp_path, capsys):
    options, workdir = unbroken
    shutil.copytree(workdir, tmp_path / "run")
    capsys.readouterr()
    other = ["--config.parallel.sync=zero1", "--config.total_steps=8"]
    assert train(config_file, tmp_path / "run", *other) == 0
    assert (
        f"of the checkpoint's own state of parallel.sync={strategy_of(options)}, dropped: " in capsys.readouterr().err
    )
    assert train(config_file, tmp_path / "run", *options, "--config.total_steps=12") == 0
    assert "initialised from the parameters: " in capsys.readouterr().err
    lines = metrics_lines(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert {line["train/skipped"] for line in lines} == {0}
