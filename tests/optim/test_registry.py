"""Registered optimizers and schedules are chosen by name and used as the built-in ones."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdp.errors import UserError
from jaxdp.optim import (
    OptimizerConfig,
    make_optimizer,
    make_schedule,
    register_optimizer,
    register_schedule,
    registry,
)

VALUES = {
    "name": "adamw", "learning_rate": 0.1, "schedule": "constant", "warmup_steps": 3, "end_learning_rate": 0.0, "weight_decay": 0.1,
    "b1": 0.9, "b2": 0.95, "eps": 1e-8, "momentum": 0.9, "clip_norm": 1.0, "total_steps": 10,
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_tables(monkeypatch):
    """Registrations end with the test."""
    for table in (registry.DIRECTIONS, registry.SCHEDULES):
        for name in ("sign", "inverse", "mine"):
            monkeypatch.setitem(table, name, None)
            del table[name]


def test_a_registered_optimizer_gets_decay_and_learning_rate():
    register_optimizer("sign", lambda config: optax.stateless_with_tree_map(lambda gradient, _: jnp.sign(gradient)))
    optimizer = make_optimizer(OptimizerConfig(**VALUES | {"name": "sign", "warmup_steps": 0}))
    params, gradients = {"kernel": jnp.ones((2, 2))}, {"kernel": jnp.array([[3.0, -2.0], [0.5, 0.0]])}
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    expected = -0.1 * (np.sign(gradients["kernel"]) + 0.1 * np.ones((2, 2)))
    np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-6)


def test_a_registered_schedule_follows_the_warmup():
    register_schedule("inverse", lambda count, config: config.learning_rate / (1 + count))
    rates = make_schedule(OptimizerConfig(**VALUES | {"schedule": "inverse"}))(np.arange(6))
    np.testing.assert_allclose(rates, [0.025, 0.05, 0.075, 0.1 / 4, 0.1 / 5, 0.1 / 6], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        (lambda: register_optimizer("adamw", len), "'adamw' is that of a built-in optimizer"),
        (lambda: register_schedule("cosine", len), "'cosine' is that of a built-in schedule"),
        (lambda: register_optimizer(3, len), "the name of an optimizer must be a string, found 3"),
        (lambda: register_schedule("mine", 3), "schedule 'mine' must be a function"),
        (lambda: OptimizerConfig(**VALUES | {"schedule": "cosin"}), "did you mean 'cosine'"),
    ],
)
def test_wrong_registrations_are_refused(call, fragment):
    with pytest.raises(UserError, match=fragment):
        call()


def test_a_later_registration_replaces_an_earlier_one():
    register_schedule("mine", lambda count, config: count)
    register_schedule("mine", lambda count, config: 2 * count)
    assert make_schedule(OptimizerConfig(**VALUES | {"schedule": "mine"}))(5) == 10


def returning(function, init=lambda params: ()):
    return lambda config: optax.GradientTransformation(init, function)


WRONG = {
    "nothing": (lambda config: None, r"must return an Optax transformation such as .*found None"),
    "no pair": (returning(lambda u, s, p: u), r"its update must return \(updates, state\), found"),
    "structure": (returning(lambda u, s, p: (list(u.values()), s)), r"updates that it returns must have the tree structure"),
    "shape": (returning(lambda u, s, p: ({k: v.sum() for k, v in u.items()}, s)), r"\['w'\] is \[\], expected \[2\]"),
    "state": (returning(lambda u, s, p: (u, (1,))), r"state that its update returns must have the tree structure"),
    "arguments": (returning(lambda u, s: (u, s)), r"is called with the arguments \(updates, state, params\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_optimizer_is_refused(case):
    function, message = WRONG[case]
    register_optimizer("mine", function)
    params = {"w": jnp.ones(2)}
    with pytest.raises(UserError, match=r"optim\.name=mine.*" + message):
        optimizer = make_optimizer(OptimizerConfig(**VALUES | {"name": "mine"}))
        optimizer.update(params, optimizer.init(params), params)


@pytest.mark.parametrize("rate", [None, "fast", jnp.ones(3)])
def test_a_wrong_schedule_is_refused(rate):
    register_schedule("mine", lambda count, config: rate)
    with pytest.raises(UserError, match=r"optim\.schedule=mine must return one learning rate for each count, found"):
        make_schedule(OptimizerConfig(**VALUES | {"schedule": "mine"}))(5)
