"""Variants of weight decay against float64 NumPy."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from test_optimizers import config_of, random_tree

from jaxdp.errors import UserError
from jaxdp.optim import make_optimizer

STEPS, RATE, DECAY = 10, 0.02, 0.1


def sgd(**changes):
    """Plain SGD at a constant rate, so that a step is the gradient and the decay."""
    return dataclasses.replace(config_of("sgd"), schedule="constant", warmup_steps=0, **changes)


def train(config, params, gradients):
    optimizer = make_optimizer(config)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return jax.device_get(params)


@pytest.mark.parametrize("end", [None, 0.0, 0.5])
@pytest.mark.parametrize("cautious", [False, True])
def test_steps_equal_numpy(end, cautious):
    params, *gradients = (random_tree(seed)["embed"] for seed in range(STEPS + 3))  # two more than total_steps
    found = train(sgd(weight_decay_end=end, cautious=cautious), params, gradients)
    expected = params["embedding"].astype(np.float64)
    for count, gradient in enumerate(gradients):
        gradient = gradient["embedding"].astype(np.float64)
        decay = DECAY if end is None else DECAY + (end - DECAY) * min(count / STEPS, 1)
        agrees = (gradient * expected >= 0) if cautious else True
        expected = expected - RATE * (gradient + decay * np.where(agrees, expected, 0))
    np.testing.assert_allclose(found["embedding"], expected, rtol=1e-5, atol=1e-6)


def test_it_can_grow_from_zero_and_spares_biases():
    params = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    zeros = jax.tree.map(np.zeros_like, params)
    found = train(sgd(weight_decay=0.0, weight_decay_end=1.0), params, [zeros] * 2)
    np.testing.assert_allclose(found["kernel"], 1 - RATE / STEPS, rtol=1e-6)
    np.testing.assert_array_equal(found["bias"], 1)


def test_an_end_below_zero_is_refused():
    with pytest.raises(UserError, match=r"optim\.weight_decay_end is -1; expected a finite number 0 or above"):
        sgd(weight_decay_end=-1)
