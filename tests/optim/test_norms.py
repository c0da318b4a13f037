"""Norms of parameters, gradients and updates against NumPy in float64."""

import re

import jax
import numpy as np
import optax
import pytest
from tiny_training import TinyStep, bigram_loss, bigram_params, local, reference, uneven_batch

from jaxdp.hooks.norms import norm_metrics
from jaxdp.optim import UpdateConfig
from jaxdp.optim.norms import KINDS, entries_of, entry_names, sums_of_squares
from jaxdp.parallel.layout import params_layout
from jaxdp.parallel.sharding import gather_all
from jaxdp.parallel.strategies.compressed import Compressed
from jaxdp.parallel.strategies.delayed import Delayed
from jaxdp.parallel.strategies.pmean import Pmean
from jaxdp.parallel.strategies.zero import Zero

RATE = 0.25


def norm(array):
    return np.linalg.norm(np.asarray(array, np.float64))


def sgd(norms_every_steps=1, **options):
    schedule = optax.constant_schedule(RATE)
    return UpdateConfig(optax.sgd(RATE), schedule, norms_every_steps=norms_every_steps, **options)


STRATEGIES = {
    "pmean": (Pmean(8), 1e-6),
    "delayed": (Delayed(8), 1e-6),
    "int8": (Compressed(8, bits=8), 1e-2),
    "one worker": (local(1), 1e-6),
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("clip_norm", [0.0, 0.01])
def test_norms_of_a_step_are_those_of_numpy(name, clip_norm):
    strategy, tolerance = STRATEGIES[name]
    step = TinyStep(8, update=sgd(clip_norm=clip_norm), strategy=strategy)
    params, batch = bigram_params(), uneven_batch()
    state, metrics = step(step.fresh_state(), batch)
    if name == "delayed":
        assert not metrics["norms"].any()
        _, metrics = step(state, uneven_batch(seed=1))
    found = norm_metrics(np.asarray(metrics["norms"], np.float64), entry_names(params))
    _, gradient = reference(params, batch)
    total = np.sqrt(sum(norm(leaf) ** 2 for leaf in gradient.values()))
    factor = min(1.0, clip_norm / total) if clip_norm else 1.0
    expected = {}
    for path, leaf in gradient.items():
        own = norm(leaf) * factor
        values = {
            "params": norm(params[path]),
            "grads": own,
            "updates": RATE * own,
            "ratios": RATE * own / norm(params[path]),
        }
        expected |= {f"norms/{kind}/{path}": value for kind, value in values.items()}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=tolerance), key


@pytest.mark.parametrize("shards_params", [False, True], ids=["zero1", "zero3"])
def test_norms_of_shards_are_those_of_whole_parameters(small_shards, shards_params):
    random = np.random.default_rng(0)
    params = {"bias": (11,), "kernel": (8, 11), "table": (11, 8)}
    params = {name: random.standard_normal(shape).astype(np.float32) for name, shape in params.items()}
    strategy = Zero(8, jax.eval_shape(lambda: params), shards_params)
    layout = params_layout(params, 8)
    assert [leaf.kind for leaf in jax.tree.leaves(layout)] == ["replicated", "sharded", "sharded"]

    def loss(params, rows, row_keys):
        whole = gather_all(params, layout) if shards_params else params
        sums = bigram_loss(whole, rows, row_keys)
        return sums._replace(loss=sums.loss + sums.weight * (whole["bias"] ** 2).sum())

    step, batch = TinyStep(8, loss=loss, params=params, update=sgd(), strategy=strategy), uneven_batch()
    _, metrics = step(step.fresh_state(), batch)
    gradient = reference(params, batch)[1] | {"bias": 2 * params["bias"]}
    found = norm_metrics(np.asarray(metrics["norms"], np.float64), entry_names(params))
    for name, leaf in params.items():
        assert found[f"norms/params/{name}"] == pytest.approx(norm(leaf), rel=1e-6)
        assert found[f"norms/grads/{name}"] == pytest.approx(norm(gradient[name]), rel=1e-5)
        assert found[f"norms/updates/{name}"] == pytest.approx(RATE * norm(gradient[name]), rel=1e-5)


def test_workers_have_the_mean_of_their_squares():
    """After one step, in which the workers are equal, the squares of the gradients of two workers."""
    step = TinyStep(8, update=sgd(), strategy=local(2, period=100))
    params, batch = bigram_params(), uneven_batch()
    _, metrics = step(step.fresh_state(), batch)
    halves = [{name: array[start : start + 16] for name, array in batch.items()} for start in (0, 16)]
    gradients = [reference(params, half)[1] for half in halves]
    names = entry_names(params)
    expected = [np.mean([norm(gradient[name]) ** 2 for gradient in gradients]) for name in names]
    np.testing.assert_allclose(metrics["norms"][1], expected, rtol=1e-5)


@pytest.mark.parametrize("skip_by", ["branch", "select"])
def test_a_skipped_step_has_none(skip_by):
    step = TinyStep(8, update=sgd(skip_by=skip_by))
    _, metrics = step(step.fresh_state(), uneven_batch(empty_rows=32))
    assert metrics["skipped"] == 1 and metrics["norms"].shape == (3, 2) and not metrics["norms"].any()


SHAPES = jax.eval_shape(bigram_params)

EVERY_STRATEGY = {
    "pmean": lambda: Pmean(8),
    "int8": lambda: Compressed(8, bits=8),
    "delayed": lambda: Delayed(8),
    "zero1": lambda: Zero(8, SHAPES, False),
    "local": lambda: local(2),
}


@pytest.mark.parametrize("name", EVERY_STRATEGY)
def test_with_branches_steps_without_a_line_have_none(name):
    """Lines are due after steps 2, 4 and 5, the last one; they have the numbers of a step that computes them always."""
    strategy = EVERY_STRATEGY[name]()
    always = TinyStep(8, update=sgd(skip_by="branch"), strategy=strategy)
    step = TinyStep(8, update=sgd(2, last_step=5, skip_by="branch"), strategy=strategy)
    state, other = step.fresh_state(), always.fresh_state()
    for number in range(1, 6):
        state, metrics = step(state, uneven_batch(number))
        other, expected = always(other, uneven_batch(number))
        sums = expected["norms"] if number in (2, 4, 5) else np.zeros_like(expected["norms"])
        np.testing.assert_array_equal(metrics["norms"], sums)
        assert number == 1 or expected["norms"].all()
        assert metrics["loss"] == expected["loss"]


def reductions_and_copies(text):
    """Counts those of a compiled program outside of its conditionals, and in each branch of each conditional."""
    blocks = re.finditer(r"^(?:ENTRY )?%(\S+) \(.*?^}", text, re.MULTILINE | re.DOTALL)
    bodies = {block[1]: block[0] for block in blocks}

    def count(body):
        called = re.findall(r"(?:calls|to_apply)=%([^\s,}]+)", body)
        return len(re.findall(r" (?:reduce|reduce-window|copy)\(", body)) + sum(count(bodies[name]) for name in called)

    [entry] = [body for body in bodies.values() if body.startswith("ENTRY")]
    branches = [
        [count(bodies[name]) for name in re.findall(r"%([^\s,}]+)", re.split(r"computations?=", line, maxsplit=1)[1])]
        for line in re.findall(r" conditional\((.*?), metadata", entry)
    ]
    return count(entry), branches


def test_steps_without_a_line_neither_reduce_nor_copy_more():
    """The norms are in one branch of a conditional of their own; the rest is the program without norms."""

    def counts(every):
        return reductions_and_copies(TinyStep(8, update=sgd(every, skip_by="branch")).program.call.as_text())

    outside, [norms, update] = counts(every=2)
    assert min(norms) == 0 and max(norms) >= 2 * len(KINDS)
    without, [update_without] = counts(every=0)
    assert outside <= without + 1, "one copy is that of the norms themselves"
    assert update == update_without


def test_without_norms_a_step_has_no_such_metric():
    _, metrics = (step := TinyStep(1))(step.fresh_state(), uneven_batch())
    assert not {"norms", "device_squares"} & metrics.keys()


def test_scanned_layers_have_one_entry_each():
    random = np.random.default_rng(0)
    tree = {"a": random.random((2, 3)), "encoder": {"layers": {"b": random.random((3, 4, 5)), "c": random.random(3)}}}
    tree = {"a": tree["a"], "encoder": tree["encoder"], "z": np.float32(2.0)}
    names = ["a", *(f"encoder/layer_{layer}/{name}" for name in "bc" for layer in range(3)), "z"]
    assert entry_names(tree) == names
    layers = tree["encoder"]["layers"]
    expected = [norm(tree["a"]), *map(norm, layers["b"]), *abs(layers["c"]), 2.0]
    found = np.sqrt(sums_of_squares(tree, tree, tree))
    np.testing.assert_allclose(found, [expected] * 3, rtol=1e-6)
    assert entries_of(tree, [True, False, True, False]).tolist() == [True] + [False] * 3 + [True] * 3 + [False]


def test_a_parameter_of_zeros_has_no_ratio():
    found = norm_metrics(np.array([[0.0, 4.0], [1.0, 1.0], [9.0, 9.0]]), ["a", "b"])
    assert np.isnan(found["norms/ratios/a"]) and found["norms/ratios/b"] == 1.5
