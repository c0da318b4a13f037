"""`wire_dtype` int8 and int4: training with quantised gradients, its residuals, and where they stay as they are."""

import dataclasses
import re

import jax
import numpy as np
import optax
import pytest
from tiny_training import (
    ROWS,
    TinyStep,
    assert_equal_trees,
    batch_of,
    bigram_params,
    host,
    plain_update,
    reference,
    topology,
    uneven_batch,
)

from jaxdp.config import parse_config
from jaxdp.optim import UpdateConfig
from jaxdp.parallel.strategies.compressed import RESIDUALS, Compressed
from jaxdp.parallel.strategies.pmean import Pmean
from jaxdp.parallel.strategies.registry import make_strategy

STEPS = 60


@dataclasses.dataclass(frozen=True)
class WithoutFeedback(Compressed):
    """Rounds away what feedback would keep."""

    def update(self, state, gradients, totals, update):
        zeros = jax.tree.map(jax.numpy.zeros_like, state.sync)
        return super().update(state.replace(sync=zeros), gradients, totals, update)


def distance(strategy, exact):
    """Distance to the parameters of exact gradients after some steps of SGD, relative to the way that they went."""
    update = UpdateConfig(optax.sgd(0.3), optax.constant_schedule(0.3))
    step = TinyStep(8, update=update, strategy=strategy)
    state = step.fresh_state()
    for number in range(STEPS):
        state, _ = step(state, uneven_batch(number % 4))
    final = host(state.params)
    if exact is None:
        return final
    way = sum(((exact[name] - bigram_params()[name]) ** 2).sum() for name in exact)
    return float(np.sqrt(sum(((exact[name] - final[name]) ** 2).sum() for name in exact) / way))


def test_feedback_brings_training_to_the_parameters_of_exact_gradients():
    exact = distance(Pmean(8), None)
    found = {bits: distance(Compressed(8, bits), exact) for bits in (8, 4)}
    without = {bits: distance(WithoutFeedback(8, bits), exact) for bits in (8, 4)}
    assert found[8] < 0.002 and found[4] < 0.02, found
    assert without[8] > 3 * found[8] and without[4] > 3 * found[4], (found, without)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_first_update_is_the_gradient_to_half_a_multiple(bits, microbatches):
    batch = uneven_batch(seed=1)
    step = TinyStep(8, microbatches, strategy=Compressed(8, bits))
    state, metrics = step(step.fresh_state(), batch)
    loss, gradient = reference(bigram_params(), batch)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    assert metrics["tokens"] == batch["loss_weights"].sum()
    applied = jax.tree.map(np.subtract, bigram_params(), host(state.params))
    largest = max(np.abs(leaf).max() for leaf in gradient.values())
    # Eight devices round once each, at most the sum of their magnitudes, then the sum is rounded.
    assert_equal_trees(applied, gradient, atol=3 * largest / (2 ** (bits - 1) - 1))
    norm = np.sqrt(sum((leaf**2).sum() for leaf in applied.values()))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)


def test_residuals_are_parts_of_mean_gradients_whatever_the_weight_of_a_batch():
    """Loss weights times 1024 are the same batch, to the bit."""
    runs = []
    for factor in (1.0, 1024.0):
        step = TinyStep(8, strategy=Compressed(8, 4))
        state = step.fresh_state()
        for seed in range(3):
            batch = uneven_batch(seed)
            batch["loss_weights"] = batch["loss_weights"] * np.float32(factor if seed == 1 else 1.0)
            state, _ = step(state, batch)
        runs.append(host((state.params, state.sync)))
    assert_equal_trees(*runs)


def nan_on_one_device():
    batch = uneven_batch(seed=2)
    batch["loss_weights"][-1, 0] = np.nan
    return batch


@pytest.mark.parametrize(
    "bad_batch", [nan_on_one_device, lambda: batch_of([0] * ROWS)], ids=["not finite", "no target"]
)
@pytest.mark.parametrize("skip_by", ["branch", "select"])
def test_a_skipped_update_keeps_the_residuals(bad_batch, skip_by):
    step = TinyStep(8, update=plain_update(skip_by=skip_by), strategy=Compressed(8, 4))
    state, _ = step(step.fresh_state(), uneven_batch(seed=3))
    before = jax.device_get((state.params, state.sync))
    state, metrics = step(state, bad_batch())
    assert metrics["skipped"] == 1
    assert_equal_trees(jax.device_get((state.params, state.sync)), before)
    assert np.abs(before[1][RESIDUALS].sent).max() > 0
    state, metrics = step(state, uneven_batch(seed=4))
    assert metrics["skipped_in_a_row"] == 0 and np.isfinite(host(state.params)["kernel"]).all()


def test_all_devices_hold_the_same_parameters():
    step = TinyStep(8, strategy=Compressed(8, 4))
    state = step.fresh_state()
    for seed in range(5):
        state, _ = step(state, uneven_batch(seed))
    for leaf in jax.tree.leaves((state.params, state.opt_state)):
        shards = [np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards]
        assert len(shards) == 8 and len(set(shards)) == 1


def test_gradients_travel_as_bytes_alone():
    text = TinyStep(8, 2, strategy=Compressed(8, 4)).program.call.as_text()
    collective = re.compile(r" = (.*) (all-reduce|all-to-all|all-gather|reduce-scatter|collective-permute)\(")
    found = [match.groups() for match in map(collective.search, text.splitlines()) if match]
    assert [kind for types, kind in found if "u8[" in types] == ["all-to-all", "all-gather"]
    # Totals, control word: a few numbers.
    others = re.findall(r"\[(\d*)\]", " ".join(types for types, _ in found if "u8[" not in types))
    assert others and all(int(size or 1) <= 4 for size in others)
    assert " while(" in text


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_one_device_compresses_nothing(dtype):
    config = parse_config({"total_steps": 1, "parallel": {"wire_dtype": dtype}})
    assert make_strategy(config.parallel, topology(1), None) == Pmean(1)
    assert make_strategy(config.parallel, topology(2), None) == Compressed(2, int(dtype[3:]))
