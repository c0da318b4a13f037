"""Every optimizer against float64 NumPy, scanned against unrolled, and through a checkpoint."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxdp.optim import OptimizerConfig, clip_factor, make_optimizer, update_ema
from jaxdp.optim.optimizers import BUILT_IN

B1, B2, EPS, MOMENTUM, DECAY = 0.9, 0.95, 1e-8, 0.8, 0.1
OPTIMIZERS = sorted(BUILT_IN)


def config_of(name: str) -> OptimizerConfig:
    return OptimizerConfig(
        name=name,
        learning_rate=0.02,
        schedule="linear",
        warmup_steps=2,
        end_learning_rate=0.0,
        weight_decay=DECAY,
        b1=B1,
        b2=B2,
        eps=EPS,
        momentum=MOMENTUM,
        clip_norm=1.0,
        total_steps=10,
    )


def random_tree(seed: int) -> dict:
    """Two layers that differ in size, as gradients of deep models do, unrolled and again scanned."""
    rng = np.random.default_rng(seed)

    def random(*shape):
        return rng.normal(size=shape).astype(np.float32)

    # A kernel that Adafactor factors, an embedding that it does not.
    layers = [{"kernel": size * random(130, 128), "bias": size * random(4)} for size in (1, 4)]
    return {
        "embed": {"embedding": random(7, 5)},
        "unrolled": {f"layer_{index}": layer for index, layer in enumerate(layers)},
        "scanned": {"layers": jax.tree.map(lambda *leaves: np.stack(leaves), *layers)},
    }


@functools.cache
def parameters_after_three_updates(name: str) -> dict:
    optimizer = make_optimizer(config_of(name))

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = random_tree(0)
    state = jax.jit(optimizer.init)(params)
    for seed in (1, 2, 3):
        params, state = step(params, state, random_tree(seed))
    return jax.device_get(params)


# The references: one parameter, a list of gradients, the direction at each.


def adam_directions(grads):
    first = second = 0.0
    for t, grad in enumerate(grads, start=1):
        first = B1 * first + (1 - B1) * grad
        second = B2 * second + (1 - B2) * grad**2
        yield first / (1 - B1**t) / (np.sqrt(second / (1 - B2**t)) + EPS)


def momentum_directions(grads):
    velocity = 0.0
    for grad in grads:
        velocity = MOMENTUM * velocity + grad
        yield velocity


def rmsprop_directions(grads):
    second = 0.0
    scaled = []
    for grad in grads:
        second = B2 * second + (1 - B2) * grad**2
        scaled.append(grad / (np.sqrt(second) + EPS))
    yield from momentum_directions(scaled)


def adagrad_directions(grads):
    total = 0.0
    for grad in grads:
        total = total + grad**2
        yield grad / np.sqrt(total + EPS**2)


def lion_directions(grads):
    first = 0.0
    for grad in grads:
        yield np.sign(B1 * first + (1 - B1) * grad)
        first = B2 * first + (1 - B2) * grad


def newton_schulz(matrix):
    x = matrix / np.sqrt((matrix**2).sum())
    for _ in range(5):
        xxt = x @ x.T
        x = 3.4445 * x - 4.7750 * xxt @ x + 2.0315 * xxt @ xxt @ x
    return x


def orthogonal_directions(grads):
    """Nesterov momentum as in Dozat 2016, Incorporating Nesterov Momentum into Adam, section 3."""
    first = 0.0
    for t, grad in enumerate(grads, start=1):
        first = MOMENTUM * first + (1 - MOMENTUM) * grad
        ahead = MOMENTUM * first / (1 - MOMENTUM ** (t + 1)) + (1 - MOMENTUM) * grad / (1 - MOMENTUM**t)
        yield newton_schulz(ahead)


def muon_directions(grads):
    for direction in orthogonal_directions(grads):
        yield 0.2 * np.sqrt(max(direction.shape)) * direction


def normuon_directions(grads):
    """Algorithm 1 of Li et al.; the outputs, which are rows there, are columns here."""
    squares = 0.0
    for direction in orthogonal_directions(grads):
        squares = B2 * squares + (1 - B2) * (direction**2).mean(axis=0)
        scaled = direction / (np.sqrt(squares) + EPS)
        yield 0.2 * np.sqrt(scaled.size) * scaled / np.linalg.norm(scaled)


def adafactor_step(grad, param, rows, columns, full, t):
    """Algorithms 4 and 5 of Shazeer and Stern, in their sums."""
    beta = 1 - t**-0.8
    square = grad**2 + 1e-30
    if grad.ndim == 2 and min(grad.shape) >= 128:
        rows = beta * rows + (1 - beta) * square.sum(1, keepdims=True)
        columns = beta * columns + (1 - beta) * square.sum(0, keepdims=True)
        second = rows @ columns / rows.sum()
    else:
        second = full = beta * full + (1 - beta) * square
    update = grad / np.sqrt(second)
    update = update / max(1.0, np.sqrt((update**2).mean()))
    return update * max(1e-3, np.sqrt((param**2).mean())), rows, columns, full


def reference(name: str, param, grads, *, decays: bool, muon_matrix: bool) -> np.ndarray:
    """The parameter after all gradients, by float64 NumPy."""
    param = param.astype(np.float64)
    grads = [grad.astype(np.float64) for grad in grads]
    rates = [0.02 / 3, 0.04 / 3, 0.02]  # warm-up of 2, then the peak
    directions = {
        "adam": adam_directions,
        "adamw": adam_directions,
        "sgd": iter,
        "momentum": momentum_directions,
        "rmsprop": rmsprop_directions,
        "adagrad": adagrad_directions,
        "lion": lion_directions,
        "muon": muon_directions if muon_matrix else adam_directions,
        "normuon": normuon_directions if muon_matrix else adam_directions,
    }
    memory = (0.0, 0.0, 0.0)
    stream = directions[name](grads) if name != "adafactor" else None
    for t, (rate, grad) in enumerate(zip(rates, grads, strict=True), start=1):
        if name == "adafactor":
            direction, *memory = adafactor_step(grad, param, *memory, t)
        else:
            direction = next(stream)
        shrink = DECAY * param if decays and name != "adam" else 0.0
        param = param - rate * (direction + shrink)
    return param


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_updates_equal_float64_numpy(name):
    def check(path, result, param, *grads):
        is_matrix = path[-1].key != "bias"
        expected = reference(name, param, grads, decays=is_matrix, muon_matrix=path[-1].key == "kernel")
        moved = np.abs(expected - param).max()
        np.testing.assert_allclose(result, expected, rtol=0, atol=2e-5 * moved + 1e-6)

    for part in ("embed", "unrolled"):
        history = [random_tree(seed)[part] for seed in range(4)]
        jax.tree.map_with_path(check, parameters_after_three_updates(name)[part], *history)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scanned_layers_take_the_updates_of_unrolled_ones(name):
    result = parameters_after_three_updates(name)
    jax.tree.map(
        lambda stacked, *each: np.testing.assert_allclose(stacked, each, rtol=2e-6, atol=2e-6),
        result["scanned"]["layers"],
        *result["unrolled"].values(),
    )


def test_every_state_survives_a_checkpoint(tmp_path):
    params = random_tree(0)
    states = {name: make_optimizer(config_of(name)).init(params) for name in OPTIMIZERS}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(states))
    numbered = jax.tree.map(lambda leaf: jnp.asarray(np.arange(leaf.size).reshape(leaf.shape), leaf.dtype), states)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "states", numbered)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "states", states)
    assert jax.tree.structure(restored) == jax.tree.structure(states)
    jax.tree.map(np.testing.assert_array_equal, restored, numbered)


@pytest.mark.parametrize(("max_norm", "expected_norm"), [(1.0, 1.0), (100.0, 10.0), (0.0, 10.0)])
def test_clip_factor(max_norm, expected_norm):
    grads = {"a": jnp.array([6.0, 0.0]), "b": {"c": jnp.array([[8.0]])}}
    factor = clip_factor(optax.tree.norm(grads), max_norm)
    clipped = jax.tree.map(lambda leaf: leaf * factor, grads)
    scale = expected_norm / 10.0
    np.testing.assert_allclose(clipped["a"], [6.0 * scale, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"]["c"], [[8.0 * scale]], rtol=1e-6)


def test_clip_factor_of_zero_gradients_is_one():
    grads = {"a": jnp.zeros(3)}
    assert clip_factor(optax.tree.norm(grads), 1.0) == 1


def test_update_ema():
    rng = np.random.default_rng(0)
    history = rng.normal(size=(20, 5)).astype(np.float32)
    ema, expected = {"w": jnp.asarray(history[0])}, history[0].astype(np.float64)
    for params in history[1:]:
        ema = update_ema(ema, {"w": jnp.asarray(params)}, 0.9)
        expected = 0.9 * expected + 0.1 * params
    assert ema["w"].dtype == jnp.float32
    np.testing.assert_allclose(ema["w"], expected, rtol=1e-5)
