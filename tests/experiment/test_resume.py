"""Exact resume: however a run is stopped, it ends as if it had not been."""

import os
import signal

import pytest
from tiny_runs import assert_same_bits, metrics_lines, saved_arrays, train

from jaxdp.hooks.preemption import Preemption

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


def stop_after(monkeypatch, first_step, last_step):
    """Sends SIGTERM to this process while `last_step` is about to begin.

    An evaluation after every step makes the loop read the request at once, so
    that the run stops after this very step.
    """
    asked = iter(range(first_step + 1, STEPS + 1))
    received = Preemption.request

    def request(self):
        if next(asked) == last_step:
            os.kill(os.getpid(), signal.SIGTERM)
        return received(self)

    monkeypatch.setattr(Preemption, "request", request)


def test_stopped_after_every_step_the_run_is_bitwise_the_unbroken_one(config_file, unbroken, tmp_path, monkeypatch):
    for step in range(1, STEPS + 1):
        with monkeypatch.context() as patch:
            stop_after(patch, step - 1, step)
            code = train(
                config_file, tmp_path, "--config.eval.every_steps=1", "--config.checkpoint.every_steps=0"
            )
        assert code == (75 if step < STEPS else 0)
        assert_same_bits(saved_arrays(tmp_path, step), saved_arrays(unbroken, step))
    for name in ("train/loss", "data/batch_hash", "eval/loss"):
        lines, expected = metrics_lines(tmp_path, name), metrics_lines(unbroken, name)
        assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
        assert [line[name] for line in lines] == [line[name] for line in expected]
