"""Strategy `delayed` against a loop that keeps a list of gradients."""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiers import other_rows_slow
from tiny_training import (
    ROWS,
    TinyStep,
    assert_equal_trees,
    batch_of,
    bigram_loss,
    bigram_params,
    host,
    plain_update,
    uneven_batch,
)

from jaxdp.optim import UpdateConfig, track_loss
from jaxdp.optim.spikes import SPIKE_WARMUP
from jaxdp.parallel.strategies.delayed import QUEUE, Delayed

STEPS = 8
SCHEDULE = optax.linear_schedule(0.0, 0.3, 3)
CLIP_NORM, EMA_DECAY = 0.1, 0.5


@pytest.fixture(scope="module", autouse=True)
def without_fusion():
    """Compiles without fused multiply-add, which rounds the same operations differently in different programs."""
    before = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0"
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def update_config():
    return UpdateConfig(
        optax.adamw(SCHEDULE, weight_decay=0.1), SCHEDULE, clip_norm=CLIP_NORM, ema_decay=EMA_DECAY, skip_by="branch"
    )


def sequential(batches, delay):
    """Final state, losses and norms of a loop that applies gradient N at step N + delay."""
    params = jax.tree.map(jnp.asarray, bigram_params())
    optimizer = optax.adamw(SCHEDULE, weight_decay=0.1)

    @jax.jit
    def gradient_of(params, batch):
        def objective(params):
            sums = bigram_loss(params, batch, None)
            return sums.loss, sums.weight

        (loss, weight), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        return loss / weight, (gradient, weight)

    @jax.jit
    def apply(params, opt_state, ema, gradient, weight):
        norm = optax.tree.norm([leaf.reshape(-1) for leaf in jax.tree.leaves(gradient)]) / weight
        factor = jnp.minimum(1.0, CLIP_NORM / norm) / weight
        changes, opt_state = optimizer.update(jax.tree.map(lambda leaf: leaf * factor, gradient), opt_state, params)
        params = optax.apply_updates(params, changes)
        return params, opt_state, optax.incremental_update(params, ema, 1 - EMA_DECAY), norm

    opt_state, ema, waiting, losses, norms = optimizer.init(params), params, [], [], []
    for batch in batches:
        loss, new = gradient_of(params, batch)
        losses.append(loss)
        norms.append(0.0)
        if len(waiting) == delay:
            params, opt_state, ema, norms[-1] = apply(params, opt_state, ema, *waiting.pop(0))
        waiting.append(new)
    return jax.device_get((params, opt_state, ema, losses, norms))


@pytest.mark.parametrize(
    ("devices", "microbatches", "delay"),
    other_rows_slow(
        [(*split, delay) for split in [(1, 1), (8, 1), (2, 4)] for delay in (1, 2, 3)], (1, 1, 3), (8, 1, 1), (2, 4, 2)
    ),
)
def test_the_run_is_that_of_the_sequential_loop(devices, microbatches, delay):
    batches = [uneven_batch(seed) for seed in range(STEPS)]
    params, opt_state, ema, losses, norms = sequential(batches, delay)
    step = TinyStep(devices, microbatches, update=update_config(), strategy=Delayed(devices, num_steps=delay))
    state, metrics = step.fresh_state(), []
    for batch in batches:
        state, values = step(state, batch)
        metrics.append(values)
    tolerance = {} if devices == 1 else {"rtol": 1e-5, "atol": 1e-6}
    assert_equal_trees(host(state.params), params, **tolerance)
    assert_equal_trees(host(state.opt_state), opt_state, **tolerance)
    np.testing.assert_allclose([values["loss"] for values in metrics], losses, rtol=1e-6)
    np.testing.assert_allclose([values["grad_norm"] for values in metrics], norms, rtol=1e-6)
    assert_equal_trees(host(state.ema), ema, rtol=1e-5, atol=1e-6)
    rates = [0.0] * delay + [float(SCHEDULE(count)) for count in range(STEPS - delay)]
    np.testing.assert_allclose([values["learning_rate"] for values in metrics], rates, rtol=1e-6)
    assert state.step == STEPS and state.skipped == 0


def nan_batch():
    batch = uneven_batch(seed=2)
    batch["loss_weights"][-1, 0] = np.nan
    return batch


@pytest.mark.parametrize("bad_batch", [nan_batch, lambda: batch_of([0] * ROWS)], ids=["not finite", "no target"])
def test_a_bad_batch_is_skipped_when_its_gradient_is_due(bad_batch):
    delay = 2
    step = TinyStep(8, update=plain_update(skip_by="select"), strategy=Delayed(8, num_steps=delay))
    batches = [uneven_batch(0), bad_batch(), uneven_batch(3), uneven_batch(4), uneven_batch(5)]
    state, found, params = step.fresh_state(), [], []
    for batch in batches:
        state, values = step(state, batch)
        found.append(values)
        params.append(host(state.params))
    assert [values["skipped"] for values in found] == [0, 0, 0, 1, 1]
    assert [values["skipped_in_a_row"] for values in found] == [0, 0, 0, 1, 0]
    assert [bool(np.isfinite(values["loss"])) for values in found] == [True, False, True, True, True]
    assert [bool(np.isfinite(values["grad_norm"])) for values in found] == [True, True, True, False, True]
    moved = [
        np.abs(new["kernel"] - old["kernel"]).max() > 0
        for old, new in zip([bigram_params(), *params], params, strict=False)
    ]
    assert moved == [False, False, True, False, True]


def test_a_loss_spike_is_that_of_the_gradient_applied():
    delay = 1
    update = UpdateConfig(
        optax.chain(optax.sgd(1e-3), track_loss()), optax.constant_schedule(1e-3), spike_factor=1.5, skip_by="branch"
    )

    def loss(params, rows, row_keys):
        sums = bigram_loss(params, rows, row_keys)
        return sums._replace(loss=sums.loss + jnp.sum(rows["offset"]))

    step = TinyStep(2, loss=loss, update=update, strategy=Delayed(2, num_steps=delay), extra_spec=("offset",))
    state, skipped = step.fresh_state(), []
    for number in range(SPIKE_WARMUP + 5):
        offset = np.full(ROWS, 100.0 if number == SPIKE_WARMUP + 2 else 0.0, np.float32)
        state, metrics = step(state, uneven_batch(number) | {"offset": offset})
        skipped.append(int(metrics["skipped"]))
    assert skipped == [0] * (SPIKE_WARMUP + 3) + [1, 1]


def test_gradients_are_queued_unreduced_in_one_entry_per_device():
    step = TinyStep(4, strategy=Delayed(4, num_steps=3))
    state = step.fresh_state()
    for seed in range(4):
        state, _ = step(state, uneven_batch(seed))
    queue = jax.device_get(state.sync[QUEUE])
    assert queue.gradients["kernel"].shape == (4, 3, *bigram_params()["kernel"].shape)
    assert queue.totals.shape == (4, 3, 3) and queue.num_queued == 3
    for entry, seed in [(0, 3), (1, 1), (2, 2)]:
        tokens = uneven_batch(seed)["loss_weights"].reshape(4, -1).sum(axis=1)
        np.testing.assert_array_equal(queue.totals[:, entry, 2], tokens)


def test_an_empty_queue_fills_again_at_any_step():
    step = TinyStep(2, strategy=Delayed(2, num_steps=2))
    fresh = step.fresh_state()
    state = fresh.replace(step=jax.device_put(np.int32(7), step.topology.replicated))
    norms = []
    for seed in range(3):
        state, metrics = step(state, uneven_batch(seed))
        norms.append(float(metrics["grad_norm"]))
    assert norms[:2] == [0.0, 0.0] and norms[2] > 0 and state.skipped == 0


def test_the_all_reduce_does_not_wait_for_the_gradient_of_its_step():
    """Overlap is possible: the queued sums are reduced from the state alone."""
    step = TinyStep(4, strategy=Delayed(4))
    elements = sum(leaf.size for leaf in bigram_params().values())
    definitions = {}
    for line in step.program.call.as_text().split("\nENTRY ")[1].splitlines():
        name, found, definition = line.strip().removeprefix("ROOT ").partition(" = ")
        if found:
            definitions[name] = definition
    [reduction] = [text for text in definitions.values() if " all-reduce(" in text and f"f32[{elements}]" in text]
    read, waiting = set(), [reduction]
    while waiting:
        for name in re.findall(r"%[\w.-]+", waiting.pop().split("(", 1)[1]):
            if name in definitions and name not in read:
                read.add(name)
                waiting.append(definitions[name])
    arguments = [
        re.search(r"flat_args\[(\d+)\]", definitions[name]) for name in read if " parameter(" in definitions[name]
    ]
    num_state = len(jax.tree.leaves(step.placement.abstract))
    assert arguments and all(int(argument[1]) < num_state for argument in arguments)
