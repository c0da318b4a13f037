"""The first value that is not finite, wherever it arises."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faults import poison
from tiers import others_slow
from tiny_runs import load, setup_of

from jaxdp.training.diagnosis import diagnose
from jaxdp.trees import leaf_name, named_leaves

STEP = 2


def make_run(config_file, *overrides):
    """A setup and its first state, of two layers."""
    config = load(config_file, "model.num_layers=2", *overrides)
    setup = setup_of(config)
    return types.SimpleNamespace(setup=setup, params=setup.fresh_state().params)


@pytest.fixture(scope="module")
def run(config_file):
    return make_run(config_file)


def changed(params, name, value):
    """The parameters with all numbers of one of the second layer replaced."""

    def change(path, leaf):
        array = np.array(leaf)
        if leaf_name(path) == f"layer_1/{name}":
            array[...] = value
        elif leaf_name(path) == f"layers/{name}":
            (array if array.ndim < 4 else array.swapaxes(0, 1))[1] = value  # of every device where it is sharded
        return jax.device_put(array, leaf.sharding)

    return jax.tree.map_with_path(change, params)


def all_rows(run):
    return sorted(run.setup.loader.rows(STEP, np.arange(16, dtype=np.int32)).tolist())


def test_a_finite_batch(run):
    found = diagnose(run.setup, run.params, STEP)
    assert found.where == "computed again, everything on every device is finite"
    assert (found.rows, found.are_culprits) == (all_rows(run), False)
    first = ", ".join(map(str, all_rows(run)[:8]))
    assert str(found) == f"rows {first} and 8 more of the training data; {found.where}"


def test_a_parameter(run):
    found = diagnose(run.setup, changed(run.params, "mlp/up/kernel", np.nan), STEP)
    assert found.where == "the parameters layer_1/mlp/up/kernel themselves are not finite"


@pytest.mark.parametrize("name", ["mlp/up", "attention/query"])
def test_an_output(run, name):
    found = diagnose(run.setup, changed(run.params, f"{name}/kernel", 3e38), STEP)
    assert found.where == f"the first layer whose output is not finite is layer_1/{name}"
    assert (found.rows, found.are_culprits) == (all_rows(run), False)


@pytest.mark.slow  # scanned layers are sharded below
def test_scanned_and_recomputed_layers_are_seen_one_by_one(config_file):
    run = make_run(config_file, "model.scan_layers=True", "model.remat=full")
    found = diagnose(run.setup, changed(run.params, "mlp/up/kernel", 3e38), STEP)
    assert found.where == "the first layer whose output is not finite is layer_1/mlp/up"


@pytest.mark.parametrize("scan", others_slow([False, True], True))
def test_sharded_parameters_are_seen_like_whole_ones(config_file, scan, small_shards):
    run = make_run(config_file, "parallel.sync=zero3", f"model.scan_layers={scan}")
    is_sharded = {name: layout.kind == "sharded" for name, layout in named_leaves(run.setup.placement.layout.params)}
    assert is_sharded["layers/mlp/up/kernel" if scan else "layer_1/mlp/up/kernel"]
    found = diagnose(run.setup, run.params, STEP)
    assert found.where == "computed again, everything on every device is finite"
    assert (found.rows, found.are_culprits) == (all_rows(run), False)
    bad = changed(run.params, "mlp/up/kernel", np.nan)
    assert diagnose(run.setup, bad, STEP).where == "the parameters layer_1/mlp/up/kernel themselves are not finite"
    bad = changed(run.params, "mlp/up/kernel", 3e38)
    assert diagnose(run.setup, bad, STEP).where == "the first layer whose output is not finite is layer_1/mlp/up"


def test_the_parameters_of_one_worker_are_seen(config_file):
    run = make_run(config_file, "parallel.sync=local")
    assert diagnose(run.setup, run.params, STEP).where == "computed again, everything on every device is finite"

    def of_last_worker(path, leaf):
        array = np.array(leaf)
        if leaf_name(path) == "layer_1/mlp/up/kernel":
            array[-1] = np.nan
        return jax.device_put(array, leaf.sharding)

    bad = jax.tree.map_with_path(of_last_worker, run.params)
    assert diagnose(run.setup, bad, STEP).where == "the parameters layer_1/mlp/up/kernel themselves are not finite"


def test_some_rows(run, monkeypatch):
    poison(monkeypatch.setattr, STEP)
    found = diagnose(run.setup, run.params, STEP)
    culprits = run.setup.loader.rows(STEP, np.arange(2, dtype=np.int32))
    assert (found.rows, found.are_culprits) == (sorted(culprits.tolist()), True)
    assert found.where == "the first layer whose output is not finite is embed"
    assert str(found).startswith(f"not finite in rows {found.rows[0]}, {found.rows[1]} of the training data alone; ")


@pytest.mark.parametrize(
    ("extra", "where"),
    [
        (lambda params: jnp.inf, "the outputs of all layers are finite, the loss of them is not"),
        (
            # At 0 the root's value is 0 and its derivative infinite.
            lambda params: (
                jnp.sqrt(jnp.sum((params["layer_1"]["attention_norm"]["scale"] - 1) ** 2))
                + jnp.sqrt(jnp.sum((params["layer_0"]["mlp_norm"]["scale"] - 1) ** 2))
            ),
            "the outputs of all layers are finite; going backward, the first gradient that is not is that of "
            "layer_1/attention_norm/scale",
        ),
    ],
)
def test_the_loss_and_the_way_back(run, monkeypatch, extra, where):
    loss_of = run.setup.task.loss

    def loss(apply, params, *rest):
        sums = loss_of(apply, params, *rest)
        return sums._replace(loss=sums.loss + extra(params))

    monkeypatch.setattr(run.setup.task, "loss", loss)
    assert diagnose(run.setup, run.params, STEP).where == where
