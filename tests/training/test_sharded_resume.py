"""A run that goes on under another strategy or on another number of devices: the same data and, but for rounding, the same losses."""

import shutil

import jax
import numpy as np
import pytest
from tiers import other_rows_slow
from tiny_runs import assert_same_bits, metrics_lines, saved_arrays, train

from jaxdp.checkpoint.manifest import read_manifest
from jaxdp.parallel.devices import Topology
from jaxdp.training import setup as setup

STEPS, SAVED = 6, 3
OPTIONS = [
    "--config.optim.schedule=constant", "--config.microbatch_size=2", "--config.model.embed_dim=64",
    f"--config.total_steps={STEPS}", "--config.checkpoint.keep_latest=9",
]  # fmt: skip
"""Parameters large enough to be sharded."""

MATRIX = [(sync, num_devices) for sync in ("pmean", "zero1", "zero3") for num_devices in (8, 4, 2, 1)]
EVERY_RUN = [("zero3", 8), ("zero1", 4), ("pmean", 1)]
"""Of the matrix in the default tier; the others are slow."""


@pytest.fixture
def train_on(config_file, monkeypatch):
    """Function that trains on the first of the devices."""
    monkeypatch.setattr(setup, "configure_backend", lambda *_, **__: None)

    def run(workdir, sync, num_devices, *options):
        devices = Topology(tuple(jax.devices()[:num_devices]), num_processes=1, process_index=0)
        monkeypatch.setattr(setup, "init_devices", lambda: devices)
        options = [*OPTIONS, f"--cpu_devices={num_devices}", f"--config.parallel.sync={sync}", *options]
        assert train(config_file, workdir, *options) == 0

    return run


@pytest.fixture(scope="module")
def unbroken(config_file, tmp_path_factory):
    """The whole run of each strategy on eight devices, by name."""
    runs = {}
    for sync in ("pmean", "zero1", "zero3"):
        runs[sync] = tmp_path_factory.mktemp(sync)
        assert train(config_file, runs[sync], *OPTIONS, f"--config.parallel.sync={sync}") == 0
    return runs


def stopped_at_save(run, workdir):
    """A copy of a run whose newest checkpoint is that of step `SAVED`."""
    shutil.copytree(run, workdir)
    shutil.rmtree(workdir / "checkpoints" / str(STEPS))
    return workdir


def test_strategies_save_the_same_arrays(unbroken):
    """True shapes, and the values of the replicated run but for rounding."""
    expected = saved_arrays(unbroken["pmean"], STEPS)
    leaves = {leaf["path"]: leaf["shape"] for leaf in read_manifest(unbroken["pmean"] / "checkpoints" / "6").leaves}
    for sync in ("zero1", "zero3"):
        arrays = saved_arrays(unbroken[sync], STEPS)
        assert arrays.keys() == expected.keys()
        for name, array in arrays.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=1e-6, err_msg=name)
        manifest = read_manifest(unbroken[sync] / "checkpoints" / "6")
        assert {leaf["path"]: leaf["shape"] for leaf in manifest.leaves} == leaves and manifest.pieces is None


@pytest.mark.parametrize(
    ("sync", "num_devices"),
    other_rows_slow(MATRIX, *EVERY_RUN),
)
def test_every_strategy_and_count_continues_a_sharded_run(train_on, unbroken, tmp_path, sync, num_devices):
    workdir = stopped_at_save(unbroken["zero3"], tmp_path / "run")
    train_on(workdir, sync, num_devices)
    lines, expected = metrics_lines(workdir), metrics_lines(unbroken["zero3"])
    assert [line["data/batch_hash"] for line in lines] == [line["data/batch_hash"] for line in expected]
    np.testing.assert_allclose(
        [line["train/loss"] for line in lines], [line["train/loss"] for line in expected], rtol=1e-4
    )
    if (sync, num_devices) == ("zero3", 8):
        assert_same_bits(saved_arrays(workdir, STEPS), saved_arrays(unbroken["zero3"], STEPS))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("pmean", "zero3"), ("pmean", "zero1"), ("zero1", "zero3")])
def test_strategies_continue_each_other(train_on, unbroken, tmp_path, before, after):
    workdir = stopped_at_save(unbroken[before], tmp_path / "run")
    train_on(workdir, after, 4)
    losses = [[line["train/loss"] for line in metrics_lines(run)] for run in (workdir, unbroken[before])]
    np.testing.assert_allclose(*losses, rtol=1e-4)
