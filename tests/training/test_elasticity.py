"""A run that moves to fewer devices and more processes goes on with the same data and, but for rounding, the same losses."""

import jax
import numpy as np
import pytest
from tiers import others_slow
from tiny_processes import free_address
from tiny_runs import environment, metrics_lines, saved_arrays, start, train

from jaxdp.parallel.devices import Topology
from jaxdp.training import setup as setup

STEPS = 12
OPTIONS = [
    "--config.optim.schedule=constant",
    "--config.microbatch_size=2",
    "--config.checkpoint.keep_latest=9",
]
"""A schedule that does not depend on how far each part of the run is to go."""


@pytest.fixture(scope="module")
def unbroken(config_file, tmp_path_factory):
    """The whole run on eight devices."""
    workdir = tmp_path_factory.mktemp("unbroken")
    assert train(config_file, workdir, *OPTIONS, f"--config.total_steps={STEPS}") == 0
    return workdir


def assert_same_course(workdir, unbroken, last=STEPS):
    """Compares the data, the losses and the state after the last step."""
    lines, expected = metrics_lines(workdir), metrics_lines(unbroken)[:last]
    assert [line["step"] for line in lines] == list(range(1, last + 1))
    assert [line["data/batch_hash"] for line in lines] == [line["data/batch_hash"] for line in expected]
    for name in ("train/loss", "eval/loss"):
        values, wanted = (
            [line[name] for line in metrics_lines(run, name) if line["step"] <= last] for run in (workdir, unbroken)
        )
        np.testing.assert_allclose(values, wanted, rtol=1e-4)
    arrays, wanted = saved_arrays(workdir, last), saved_arrays(unbroken, last)
    assert arrays.keys() == wanted.keys()
    for name, array in arrays.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("counts", others_slow([(8, 4, 2, 1), (8, 1)], (8, 1)))
def test_on_fewer_and_fewer_devices(config_file, unbroken, tmp_path, monkeypatch, capsys, counts):
    monkeypatch.setattr(setup, "configure_backend", lambda *_, **__: None)
    for step, num_devices in zip(range(3, STEPS + 1, 3), counts, strict=False):
        devices = Topology(tuple(jax.devices()[:num_devices]), num_processes=1, process_index=0)
        monkeypatch.setattr(setup, "init_devices", lambda devices=devices: devices)
        options = [*OPTIONS, f"--cpu_devices={num_devices}", f"--config.total_steps={step}"]
        assert train(config_file, tmp_path, *options) == 0
        err = capsys.readouterr().err
        assert f"devices   {num_devices} x cpu" in err
        assert step == 3 or f"resuming from checkpoint {step - 3} of {step} steps" in err
    assert_same_course(tmp_path, unbroken, last=step)


@pytest.mark.slow
def test_from_1_process_to_2_and_back(config_file, compilation_cache, unbroken, tmp_path, capsys):
    assert train(config_file, tmp_path, *OPTIONS, "--config.total_steps=3") == 0
    address = free_address()
    processes = [
        start(
            "train", f"--config={config_file}", f"--workdir={tmp_path}", *OPTIONS, "--config.total_steps=9",
            "--cpu_devices=2", f"--coordinator={address}", "--num_processes=2", f"--process_index={index}",
            env=environment(compilation_cache),
        )
        for index in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "devices   4 x cpu (2 processes)" in said[0] and "resuming from checkpoint 3 of 9 steps" in said[1]
    capsys.readouterr()
    assert train(config_file, tmp_path, *OPTIONS, f"--config.total_steps={STEPS}") == 0
    assert f"resuming from checkpoint 9 of {STEPS} steps" in capsys.readouterr().err
    assert_same_course(tmp_path, unbroken)
