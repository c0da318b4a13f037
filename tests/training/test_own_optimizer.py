"""An optimizer of a user whose update is not finite although the gradient is: the update is skipped and counted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiers import others_slow
from tiny_runs import assert_refused, load, metrics_lines, saved_arrays, setup_of, train

import jaxdp
from jaxdp.optim import registry


def breaks_at(count):
    """Momentum whose updates are not finite from update `count` on, in one element."""

    def update(updates, state, params=None):
        factor = jnp.where(state.count == count, jnp.nan, 1.0)
        leaves, structure = jax.tree.flatten(updates)
        leaves[-1] = leaves[-1].at[(0,) * leaves[-1].ndim].multiply(factor)
        return jax.tree.unflatten(structure, leaves), optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(lambda params: optax.ScaleByScheduleState(jnp.zeros((), jnp.int32)), update)


@pytest.fixture(autouse=True)
def optimizers(monkeypatch):
    monkeypatch.setattr(registry, "DIRECTIONS", registry.DIRECTIONS)
    for name, count in {"breaks": 2, "broken": 0}.items():
        monkeypatch.setitem(registry.DIRECTIONS, name, lambda config: optax.identity())
        jaxdp.register_optimizer(name, lambda config, count=count: breaks_at(count))


@pytest.mark.parametrize("sync", others_slow(["pmean", "zero1", "zero3"], "zero1"))
def test_an_update_that_is_not_finite_is_skipped(sync, config_file, tmp_path, capsys):
    options = ("--config.optim.name=breaks", f"--config.parallel.sync={sync}", "--config.checkpoint.every_steps=2")
    assert train(config_file, tmp_path, *options) == 0
    assert [line["train/skipped"] for line in metrics_lines(tmp_path, "train/skipped")] == [0, 0, 1, 2, 3, 4]
    states = [saved_arrays(tmp_path, step) for step in (2, 6)]
    same = {name: array for name, array in states[0].items() if "params" in name or "ema" in name or "opt" in name}
    assert len(same) > 10
    for name, array in same.items():
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(array, states[1][name])
    assert "the last 4 updates were skipped" in capsys.readouterr().err


def test_a_run_whose_updates_are_never_finite_names_the_optimizer(config_file, tmp_path, capsys):
    options = ("--config.optim.name=broken", "--config.optim.max_skipped_in_a_row=2", "--config.optim.max_rollbacks=0")
    assert train(config_file, tmp_path, *options) == 3
    assert "had parameters that optim.name=broken made non-finite from a finite gradient" in assert_refused(capsys, 3)


def test_built_in_optimizers_are_not_checked(config_file):
    assert setup_of(load(config_file, "optim.name=breaks")).update.checks_result
    assert not setup_of(load(config_file)).update.checks_result
