"""The recipe of configs/speedrun_cpu.py trains, with no more parameters than nanoGPT's model."""

import numpy as np
import pytest

import jaxdp

NANOGPT_PARAMETERS = 12 * 4 * 128**2 + 9 * 128 + (64 + 65) * 128
"""Kernels of four layers without biases, norms, and embeddings of 64 positions and 65 characters."""


@pytest.mark.slow
def test_the_speedrun_recipe_learns_with_fewer_parameters_than_nanogpt(tmp_path):
    """A text of one repeated alphabet, which a few steps learn better than chance."""
    text = tmp_path / "text.txt"
    text.write_text("abcdefghijklmnopqrstuvwxyz\n" * 2000)
    keys = {"data.path": text, "total_steps": 20, "optim.warmup_steps": 2, "parallel.cpu_devices": 2}
    config = jaxdp.load_config("speedrun_cpu", [f"--config.{key}={value}" for key, value in keys.items()])
    result = jaxdp.train(config, tmp_path / "run", handle_signals=False, watchdog=False)
    assert result.metrics["eval/loss"] < np.log(27) / 2
    assert result.model.num_parameters <= NANOGPT_PARAMETERS
