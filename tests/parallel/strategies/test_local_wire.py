"""Strategy `local` with quantised differences: error feedback, exact resume, bytes on the wire."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_training import (
    VOCAB_SIZE,
    TinyStep,
    assert_equal_trees,
    bigram_loss,
    bigram_params,
    host,
    local,
    topology,
    uneven_batch,
)

from jaxdp.checkpoint.sync_parts import sync_parts
from jaxdp.config import parse_config
from jaxdp.optim import UpdateConfig
from jaxdp.parallel.state_placement import StatePlacement
from jaxdp.parallel.strategies.pmean import Pmean
from jaxdp.parallel.strategies.registry import make_strategy
from jaxdp.parallel.worker_sync import RESIDUALS, WorkerSync
from jaxdp.training.update import make_initial_state, make_update
from jaxdp.trees import named_leaves

SHAPES = {"table": (20, 100), "layers": {"kernel": (3, 30, 40)}}


def params_of(seed):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: random.normal(size=shape).astype(np.float32), SHAPES, is_leaf=lambda leaf: isinstance(leaf, tuple)
    )


DIRECTIONS = jax.tree.map(lambda *leaves: np.stack(leaves), *(params_of(100 + seed) for seed in range(VOCAB_SIZE)))


def linear_loss(params, rows, row_keys):
    """A loss whose gradient depends on the batch alone: each token has a direction."""
    counts = jnp.sum(jax.nn.one_hot(rows["targets"], VOCAB_SIZE) * rows["loss_weights"][..., None], axis=(0, 1))
    directions = jax.tree.map(lambda each: jnp.tensordot(counts, each, 1), DIRECTIONS)
    sums = bigram_loss(jax.tree.map(jnp.asarray, bigram_params()), rows, row_keys)
    return sums._replace(loss=optax.tree.vdot(params, directions))


def muon_update(strategy):
    """Updates that do not depend on the parameters, so that differences are the same whatever was averaged before."""
    optim = {"name": "muon", "learning_rate": 0.1, "schedule": "constant", "weight_decay": 0.0, "warmup_steps": 0}
    return make_update(parse_config({"total_steps": 100, "optim": optim}).optim, 100, "cpu", strategy)


def step_of(strategy):
    return TinyStep(
        strategy.num_devices, loss=linear_loss, params=params_of(0), update=muon_update(strategy), strategy=strategy
    )


def run(step, num_steps, state=None, first=0):
    state = step.fresh_state() if state is None else state
    for seed in range(first, first + num_steps):
        # Batches recur, so that errors without feedback add up.
        state, _ = step(state, uneven_batch(seed % 4))
    return state


class WithoutFeedback(WorkerSync):
    """Rounds away what feedback would keep."""

    def _synchronise(self, fragment, ema_decay, old):
        params, ema, sync = old
        zeros = jax.tree.map(jnp.zeros_like, sync[RESIDUALS])
        return super()._synchronise(fragment, ema_decay, (params, ema, sync | {RESIDUALS: zeros}))


def outer_params_after(strategy, *steps):
    """Outer parameters after these numbers of steps, as vectors."""
    step, state, vectors, first = step_of(strategy), None, [], 0
    for last in steps:
        state = run(step, last - first, state, first)
        vectors.append(
            np.concatenate([leaf.reshape(-1) for leaf in jax.device_get(jax.tree.leaves(state.sync["outer_params"]))])
        )
        first = last
    return np.stack(vectors)


@pytest.mark.slow  # feedback: test_compressed.py
def test_the_sum_of_quantised_averages_tracks_the_exact_one():
    """The error of many synchronisations is that of one with feedback, and grows with their number without it."""
    exact, quantised = (local(4, 2, 2, bits=bits) for bits in (None, 4))
    without = dataclasses.replace(quantised, sync=WithoutFeedback(**vars(quantised.sync)))
    expected, *found = (outer_params_after(each, 2, 40) for each in (exact, quantised, without))
    (first, last), (_, last_without) = (np.linalg.norm(vectors - expected, axis=1) for vectors in found)
    assert 0 < last < 2 * first
    assert last_without > 6 * first


def test_int8_averages_after_every_step_are_nearly_pmean():
    update = UpdateConfig(optax.sgd(0.2), optax.constant_schedule(0.2))
    found = []
    for strategy in (Pmean(8), local(8, bits=8)):
        step = TinyStep(8, update=update, strategy=strategy)
        state = step.fresh_state()
        for seed in range(5):
            state, _ = step(state, uneven_batch(seed))
        found.append(host(strategy.eval_params(state)))
    moved = np.abs(found[0]["kernel"] - bigram_params()["kernel"]).max()
    assert_equal_trees(found[1], found[0], atol=0.01 * float(moved))


@pytest.fixture(scope="module")
def step():
    """Four workers of two devices, in two fragments."""
    return step_of(local(4, 4, 2, bits=4))


@pytest.fixture(scope="module")
def saved(step):
    """Form on disk after five steps: in the middle of a period, with residuals of both fragments."""
    return step.placement.to_portable(run(step, 5))


def test_a_run_resumed_in_the_middle_of_a_period_is_bitwise_the_unbroken_one(step, saved):
    for residuals in saved.sync[RESIDUALS]:
        assert residuals.sent.shape[0] == 4 and residuals.summed.shape[0] == 8
        assert np.asarray(residuals.sent).any(axis=1).all() and np.asarray(residuals.summed).any()
    expected = jax.device_get(run(step, 10))
    assert_equal_trees(jax.device_get(run(step, 5, step.placement.from_portable(saved), first=5)), expected)


@pytest.mark.parametrize(
    ("strategy", "dropped"),
    [
        (local(4, 4, 2), {RESIDUALS}),
        (local(4, 4, 2, num_devices=4, bits=4), {RESIDUALS}),
        (local(8, 4, 2, bits=4), {RESIDUALS, "token_weights", "worker_states"}),
        (local(4, 4, 1, bits=4), {RESIDUALS, "token_weights"}),
    ],
    ids=["float32", "fewer devices", "more workers", "one fragment"],
)
def test_residuals_are_dropped_where_workers_devices_or_fragments_change(saved, strategy, dropped):
    initialise = make_initial_state(muon_update(strategy), strategy)
    placement = StatePlacement(strategy, topology(strategy.num_devices), params_of(0), initialise)
    leaves = [{"path": name, "shape": leaf.shape, "dtype": leaf.dtype} for name, leaf in named_leaves(saved)]
    parts = sync_parts(leaves, placement.portable)
    assert set(parts.dropped) == dropped
    kept = placement.portable.replace(sync={part: placement.portable.sync[part] for part in parts.restored})
    on_host = jax.device_get(saved.replace(sync={part: saved.sync[part] for part in parts.restored}))
    state = placement.from_portable(jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), on_host, kept))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, placement.abstract)
    residuals = jax.tree.leaves(state.sync.get(RESIDUALS))
    assert all(np.asarray(leaf).any() != (RESIDUALS in dropped) for leaf in residuals)


@pytest.mark.parametrize(("dtype", "of_differences"), [("bfloat16", ("bfloat16", None)), ("int4", ("float32", 4))])
def test_wire_dtype_is_that_of_differences_and_gradients_within_a_worker_stay_float32(dtype, of_differences):
    config = parse_config({"total_steps": 1, "parallel": {"sync": "local", "num_workers": 4, "wire_dtype": dtype}})
    strategy = make_strategy(config.parallel, topology(8), params_of(0))
    mean = strategy.sync.mean
    assert (mean.buckets.wire_dtype, mean.bits) == of_differences
    assert strategy.buckets.wire_dtype == "float32"
    assert strategy.describe() == (
        f"4 workers of 2 devices, synchronised every 50 steps in {dtype}, outer learning rate 1, momentum 0.5"
    )


def test_one_worker_sends_and_rounds_nothing():
    alone = local(1, bits=4).sync
    assert RESIDUALS not in alone.init(params_of(0)) and alone.mean.bytes_on_wire(params_of(0)) == 0
    assert alone.mean(DIRECTIONS, None) == (DIRECTIONS, None)
