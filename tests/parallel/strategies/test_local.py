"""Strategy `local` against NumPy in float64, against `pmean`, and its skipped updates and form on disk."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiers import other_rows_slow, others_slow
from tiny_training import (
    EMBED_DIM,
    PLAIN,
    ROWS,
    TASK,
    VOCAB_SIZE,
    TinyStep,
    assert_equal_trees,
    bigram,
    host,
    local,
    reference,
    uneven_batch,
)

from jaxdp.optim import UpdateConfig
from jaxdp.parallel.outer_step import OuterOptimizer
from jaxdp.parallel.strategies.pmean import Pmean

NUM_LAYERS = 3
RATE, CLIP_NORM, EMA_DECAY = 0.2, 0.15, 0.8
NESTEROV = OuterOptimizer(0.7, 0.9)


def layered_params(is_scanned):
    """Parameters of a bigram model whose kernel is the sum of its layers."""
    random = np.random.default_rng(1)
    table = random.normal(size=(VOCAB_SIZE, EMBED_DIM)).astype(np.float32)
    layers = random.normal(size=(NUM_LAYERS, EMBED_DIM, VOCAB_SIZE)).astype(np.float32) / 2
    if is_scanned:
        return {"table": table, "layers": {"kernel": layers}}
    return {"table": table} | {f"layer_{index}": {"kernel": layers[index]} for index in range(NUM_LAYERS)}


def layers_of(params):
    """Table and layers of one device or worker by the names of the reference."""
    params = dict(params)
    table = params.pop("table")
    layers = (
        params["layers"]["kernel"]
        if "layers" in params
        else [params[f"layer_{index}"]["kernel"] for index in range(NUM_LAYERS)]
    )
    return {"table": table} | {f"layer_{index}": np.asarray(layers[index]) for index in range(NUM_LAYERS)}


def layered_loss(params, rows, row_keys):
    kernels = [leaf for name, leaf in params.items() if name != "table"]
    kernel = kernels[0]["kernel"].sum(0) if "layers" in params else sum(leaf["kernel"] for leaf in kernels)
    return TASK.loss(
        lambda params, tokens, **options: bigram(params, tokens),
        {"table": params["table"], "kernel": kernel},
        rows,
        row_keys,
        train=True,
    )


def rows_of(batch, worker, num_workers):
    """The share of one worker of a batch; empty examples at the end would make no difference."""
    size = ROWS // num_workers
    return {name: array[worker * size : (worker + 1) * size] for name, array in batch.items()}


class Reference:
    """DiLoCo in float64, worker by worker."""

    def __init__(self, num_workers, period, count, outer):
        self.period, self.count, self.settings = period, count, outer
        start = {name: leaf.astype(np.float64) for name, leaf in layers_of(layered_params(True)).items()}
        self.outer, self.ema = dict(start), dict(start)
        self.momentum = {name: np.zeros_like(leaf) for name, leaf in start.items()}
        self.workers = [dict(start) for _ in range(num_workers)]
        self.weights = np.zeros((count, num_workers))
        self.step = 0

    def update(self, batch):
        """Takes one step of every worker; returns the mean loss and the norm over them."""
        num_workers = len(self.workers)
        losses, weights, norms = [], [], []
        for index, params in enumerate(self.workers):
            rows = rows_of(batch, index, num_workers)
            kernel = sum(params[f"layer_{layer}"] for layer in range(NUM_LAYERS))
            loss, gradient = reference({"table": params["table"], "kernel": kernel}, rows)
            gradients = {name: gradient["table" if name == "table" else "kernel"] for name in params}
            norms.append(np.sqrt(sum((leaf**2).sum() for leaf in gradients.values())))
            factor = RATE * min(1.0, CLIP_NORM / norms[-1])
            self.workers[index] = {name: params[name] - factor * gradients[name] for name in params}
            losses.append(loss)
            weights.append(rows["loss_weights"].sum())
        self.weights += np.array(weights)
        self.step += 1
        for fragment in range(self.count):
            if self.step % self.period == fragment * self.period // self.count:
                self.synchronise(fragment)
        return np.average(losses, weights=weights), np.sqrt(np.mean(np.square(norms)))

    def synchronise(self, fragment):
        for name in self.outer:
            if (0 if name == "table" else int(name[-1]) % self.count) == fragment:
                mean = np.average([params[name] for params in self.workers], axis=0, weights=self.weights[fragment])
                difference = self.outer[name] - mean
                self.momentum[name] = self.settings.momentum * self.momentum[name] + difference
                nesterov = difference + self.settings.momentum * self.momentum[name]
                self.outer[name] = self.outer[name] - self.settings.learning_rate * nesterov
                decay = EMA_DECAY**self.period
                self.ema[name] = decay * self.ema[name] + (1 - decay) * self.outer[name]
                for params in self.workers:
                    params[name] = self.outer[name]
        self.weights[fragment] = 0


@pytest.mark.parametrize(
    ("num_workers", "period", "count", "outer", "is_scanned"),
    [
        (4, 3, 1, NESTEROV, True),
        (8, 1, 1, NESTEROV, False),
        (2, 4, 2, NESTEROV, True),
        (2, 4, 2, NESTEROV, False),
        (4, 5, 3, PLAIN, True),
        (1, 2, 1, NESTEROV, False),
    ],
)
def test_it_is_the_reference(num_workers, period, count, outer, is_scanned):
    update = UpdateConfig(optax.sgd(RATE), optax.constant_schedule(RATE), clip_norm=CLIP_NORM, ema_decay=EMA_DECAY)
    strategy = local(num_workers, period, count, outer)
    step = TinyStep(8, 2, loss=layered_loss, params=layered_params(is_scanned), update=update, strategy=strategy)
    expected = Reference(num_workers, period, count, outer)
    state = step.fresh_state()
    for seed in range(7):
        batch = uneven_batch(seed)
        loss, norm = expected.update(batch)
        state, metrics = step(state, batch)
        np.testing.assert_allclose([metrics["loss"], metrics["grad_norm"]], [loss, norm], rtol=1e-5)
        on_host = jax.device_get(state)
        assert_equal_trees(layers_of(on_host.sync["outer_params"]), expected.outer, atol=1e-5)
        assert_equal_trees(layers_of(on_host.ema), expected.ema, atol=1e-5)
        for device in range(8):
            own = layers_of(jax.tree.map(lambda leaf, device=device: leaf[device], on_host.params))
            assert_equal_trees(own, expected.workers[device * num_workers // 8], atol=1e-5)
        weights = np.asarray(on_host.sync["token_weights"])[:: 8 // num_workers]
        np.testing.assert_allclose(weights * 8 / num_workers, expected.weights.T, rtol=1e-6)
        if outer.momentum:
            assert_equal_trees(layers_of(on_host.sync["outer_momentum"]), expected.momentum, atol=1e-5)
    assert int(state.step) == 7 and int(state.skipped) == 0


@pytest.mark.parametrize("num_workers", [8, 2])
def test_one_step_of_sgd_with_plain_averages_is_pmean(num_workers):
    """Some workers have no valid target at all in some batches."""
    update = UpdateConfig(optax.sgd(RATE), optax.constant_schedule(RATE))
    steps = [TinyStep(8, 2, update=update, strategy=strategy) for strategy in (local(num_workers), Pmean(8))]
    states = [step.fresh_state() for step in steps]
    for seed in range(20):
        batch = uneven_batch(seed, empty_rows=6)
        (states[0], metrics), (states[1], expected) = (
            step(state, batch) for step, state in zip(steps, states, strict=True)
        )
        np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)
    assert_equal_trees(host(states[0].sync["outer_params"]), host(states[1].params), rtol=1e-6, atol=1e-6)
    assert_equal_trees(
        jax.device_get(states[0].params),
        jax.tree.map(lambda leaf: np.stack([leaf] * 8), host(states[0].sync["outer_params"])),
    )


def run(step, num_steps, state=None, first=0):
    state = step.fresh_state() if state is None else state
    for seed in range(first, first + num_steps):
        state, _ = step(state, uneven_batch(seed))
    return state


def adam_step(num_workers, period, count=1, outer=NESTEROV, *, num_devices=8, ema_decay=0.0):
    update = UpdateConfig(optax.adam(0.05), optax.constant_schedule(0.05), ema_decay=ema_decay)
    strategy = local(num_workers, period, count, outer, num_devices)
    return TinyStep(num_devices, loss=layered_loss, params=layered_params(True), update=update, strategy=strategy)


def kinked_loss(params, rows, row_keys):
    """A loss whose gradient alone is not finite, of examples with kink 0."""
    sums = layered_loss(params, rows, row_keys)
    return sums._replace(loss=sums.loss + jnp.sum(jnp.sqrt(rows["kink"] * params["table"][0, 0] ** 2)))


@pytest.mark.parametrize(
    ("num_workers", "bad"),
    other_rows_slow([(8, "loss"), (8, "gradient"), (2, "loss"), (2, "gradient")], (8, "loss"), (2, "gradient")),
)
def test_if_one_worker_has_a_bad_update_all_skip(num_workers, bad):
    strategy = local(num_workers, 3, 1, NESTEROV)
    step = TinyStep(8, loss=kinked_loss, params=layered_params(True), strategy=strategy, extra_spec=["kink"])
    whole = {"kink": np.ones(ROWS, np.float32)}
    state, _ = step(step.fresh_state(), uneven_batch(0) | whole)
    before = jax.device_get(state)
    batch = uneven_batch(1) | {"kink": np.ones(ROWS, np.float32)}
    batch["loss_weights" if bad == "loss" else "kink"][-1] = np.nan if bad == "loss" else 0.0
    state, metrics = step(state, batch)
    assert metrics["skipped"] == 1 and metrics["skipped_in_a_row"] == 1
    assert np.isfinite(metrics["loss"]) == (bad == "gradient")
    after = jax.device_get(state)
    for field in ("params", "opt_state", "sync"):
        assert_equal_trees(getattr(after, field), getattr(before, field))
    state, metrics = step(state, uneven_batch(2) | whole)  # the third step synchronises, whatever was skipped
    assert metrics["skipped"] == 1 and metrics["skipped_in_a_row"] == 0
    for leaf in jax.tree.leaves(jax.device_get(state.params)):
        assert (leaf == leaf[:1]).all()


def test_between_synchronisations_parameters_do_not_travel():
    """The collectives outside of the branches, which a step of another number does not enter, are of four numbers and less."""
    text = adam_step(8, 4, 2).program.call.as_text()
    computation, outside, inside = "", [], []
    for line in text.splitlines():
        if line and not line[0].isspace():
            computation = "ENTRY" if line.startswith("ENTRY") else line.split()[0]
        found = re.search(r" = \(?(\S+?)\{?\S* all-reduce", line)
        if found:
            sizes = [
                int(size or 1) for size in re.findall(r"\w+\[(\d*)\]", line.split(" all-reduce")[0].split(" = ")[1])
            ]
            (outside if computation == "ENTRY" else inside).append(max(sizes))
    layer = EMBED_DIM * VOCAB_SIZE
    assert outside and max(outside) <= 4
    assert sorted(size for size in inside if size > 4) == [layer, layer + 2 * layer]


def weighted_average(state, fragment_of, num_workers):
    """The average over the workers of `[num_devices, ...]`, float64."""
    weights = np.asarray(state.sync["token_weights"], np.float64)
    average = {}
    for device in range(8):
        for name, leaf in layers_of(
            jax.tree.map(lambda leaf, device=device: leaf[device], jax.device_get(state.params))
        ).items():
            share = weights[device, fragment_of(name)] / weights[:, fragment_of(name)].sum()
            average[name] = average.get(name, 0) + share * leaf.astype(np.float64)
    return average


@pytest.mark.parametrize("num_workers", others_slow([8, 2], 2))
def test_between_synchronisations_the_average_is_evaluated_and_saved(num_workers):
    step = adam_step(num_workers, 4, 2)
    state = run(step, 3)
    expected = weighted_average(state, lambda name: int(name == "layer_1"), num_workers)
    evaluated = local(num_workers, 4, 2, NESTEROV).eval_params(state)
    assert_equal_trees(layers_of(jax.device_get(evaluated)), expected, atol=1e-6)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(evaluated))
    saved = step.placement.to_portable(state)
    assert_equal_trees(jax.device_get(saved.params), jax.device_get(evaluated))
    means = jax.tree.map(
        lambda leaf: leaf.mean(0) if leaf.dtype == np.float32 else leaf[0], jax.device_get(state.opt_state)
    )
    assert_equal_trees(jax.device_get(saved.opt_state), means, atol=1e-6)
    assert jax.tree.map(np.shape, saved.params) == jax.tree.map(np.shape, layered_params(True))
    states = saved.sync["worker_states"]
    assert jax.tree.leaves(states["opt_state"])[0].shape == (num_workers,)
    assert states["params"]["layers"]["kernel"].shape == (num_workers, NUM_LAYERS, EMBED_DIM, VOCAB_SIZE)


def test_with_a_moving_average_that_is_evaluated():
    step = adam_step(8, 4, ema_decay=0.9)
    state = run(step, 3)
    assert local(8, 4, 1, NESTEROV).eval_params(state) is state.ema


@pytest.mark.parametrize(
    ("num_workers", "num_devices", "later"), other_rows_slow([(4, 8, 4), (2, 4, 8), (2, 8, 2)], (4, 8, 4))
)
def test_as_many_workers_continue_on_other_devices_where_they_were(num_workers, num_devices, later):
    """In the middle of a period, in which the workers differ."""
    step, other = (adam_step(num_workers, 4, 2, num_devices=count) for count in (num_devices, later))
    saved = jax.device_get(step.placement.to_portable(run(step, 5)))
    placed = jax.tree.map(lambda leaf, like: jax.device_put(leaf, like.sharding), saved, other.placement.portable)
    moved = other.placement.from_portable(placed)
    assert_equal_trees(jax.device_get(other.placement.to_portable(moved)).sync, saved.sync)
    size = later // num_workers
    for leaf, own in zip(
        jax.tree.leaves((moved.params, moved.opt_state)),
        jax.tree.leaves((saved.sync["worker_states"]["params"], saved.sync["worker_states"]["opt_state"])),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(leaf)[::size], own)
        np.testing.assert_array_equal(np.asarray(leaf)[size - 1 :: size], own)


def test_the_same_devices_continue_bitwise():
    step = adam_step(2, 4, 2)
    saved = step.placement.to_portable(run(step, 5))
    expected = jax.device_get(run(step, 4, first=5, state=step.placement.from_portable(saved)))
    assert_equal_trees(jax.device_get(run(step, 9)), expected)


def test_another_number_of_workers_starts_from_the_averages():
    saved = adam_step(8, 4).placement.to_portable(run(adam_step(8, 4), 5))
    step = adam_step(2, 4)
    kept = {name: saved.sync[name] for name in ("outer_params", "outer_momentum")}
    state = jax.device_get(step.placement.from_portable(saved.replace(sync=kept)))
    saved = jax.device_get(saved)
    for leaf, average in zip(
        jax.tree.leaves((state.params, state.opt_state)), jax.tree.leaves((saved.params, saved.opt_state)), strict=True
    ):
        np.testing.assert_array_equal(leaf, np.stack([average] * 8))
    assert_equal_trees(state.sync["outer_params"], saved.sync["outer_params"])
    assert_equal_trees(state.sync["outer_momentum"], saved.sync["outer_momentum"])
    assert not state.sync["token_weights"].any()
