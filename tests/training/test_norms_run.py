"""Norms and gradient noise scale of whole runs: the files, the strategies, and what is refused."""

import json

import jax
import numpy as np
import pytest
import tiny_runs
from tiny_runs import assert_refused, load, metrics_lines, train
from tiny_sharding import sharded_setup

from jaxdp.cli.main import main
from jaxdp.errors import UserError
from jaxdp.model import parameter_shapes
from jaxdp.optim.norms import entry_names
from jaxdp.parallel.strategies.pmean import Pmean
from jaxdp.training.step_setup import check_noise_scale

compilation_cache, config_file = tiny_runs.compilation_cache, tiny_runs.config_file

NORMS = "log.norms_every_steps=2"


def first_norms(setup):
    """The norms of the first update, by path."""
    program, state = setup.compile_step(), setup.fresh_state()
    batch, _ = setup.place(next(setup.loader.batches(0)))
    _, metrics = program(state, batch, setup.control_word_maker()(0, 0))
    names = entry_names(parameter_shapes(setup.model.config))
    sums = np.asarray(jax.device_get(metrics["norms"]), np.float64)
    return dict(zip(names, sums.T.tolist(), strict=True)), float(metrics["grad_norm"])


@pytest.mark.slow
def test_shards_have_the_norms_of_whole_parameters(config_file, small_shards):
    expected, total = first_norms(sharded_setup(config_file, "pmean", NORMS, "optim.clip_norm=0.0"))
    assert np.sqrt(sum(sums[1] for sums in expected.values())) == pytest.approx(total, rel=1e-5)
    for sync in ("zero1", "zero3"):
        found, _ = first_norms(sharded_setup(config_file, sync, NORMS, "optim.clip_norm=0.0"))
        assert found.keys() == expected.keys()
        for name, sums in expected.items():
            np.testing.assert_allclose(found[name], sums, rtol=1e-4, err_msg=f"{sync} {name}")


def test_a_run_writes_norms_and_noise_scale_and_continues_them(config_file, tmp_path):
    options = [f"--config.{NORMS}", "--config.log.noise_scale=True"]
    assert train(config_file, tmp_path, *options, "--config.total_steps=3", "--config.optim.schedule=constant") == 0
    assert train(config_file, tmp_path, *options, "--config.optim.schedule=constant") == 0
    lines = [json.loads(line) for line in (tmp_path / "norms.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    losses = {line["step"]: line for line in metrics_lines(tmp_path)}
    for line in lines:
        grads = [value for name, value in line.items() if name.startswith("norms/grads/")]
        assert len(grads) == 11 and len(line) == 2 + 4 * 11
        assert np.linalg.norm(grads) == pytest.approx(min(1.0, losses[line["step"]]["train/grad_norm"]), rel=1e-4)
        assert not any(name.startswith("norms/") for name in losses[line["step"]])
    assert main(["plot", str(tmp_path), "--norms"]) == 0
    assert (tmp_path / "plots" / "training_norms.png").is_file()
    assert all("train/noise_scale" in line for line in losses.values())
    assert any(line["train/noise_scale"] for line in losses.values())


REFUSED = {
    "zero3": ["--config.parallel.sync=zero3"],
    "local": ["--config.parallel.sync=local"],
    "delayed": ["--config.parallel.sync=delayed"],
    "int8": ["--config.parallel.wire_dtype=int8"],
}


@pytest.mark.parametrize("case", REFUSED)
def test_noise_scale_is_refused_without_gradients_of_single_devices(config_file, tmp_path, capsys, case):
    assert train(config_file, tmp_path / "run", "--config.log.noise_scale=True", *REFUSED[case]) == 2
    sync = "pmean" if case == "int8" else case
    assert f"log.noise_scale=True is not supported with parallel.sync={sync} and wire_dtype=" in assert_refused(capsys)


def test_noise_scale_of_one_device_is_refused(config_file):
    with pytest.raises(UserError, match="compares the gradients of several devices, found 1 device"):
        check_noise_scale(load(config_file, "log.noise_scale=True"), Pmean(1))
