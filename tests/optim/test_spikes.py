"""The running mean of the losses, and what is far above it."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdp.optim import is_spike, track_loss
from jaxdp.optim.spikes import SPIKE_MEMORY, SPIKE_WARMUP

PARAMS = {"kernel": jnp.ones(3)}


def after(losses, optimizer):
    """The optimizer's state after these losses."""
    state = optimizer.init(PARAMS)
    for loss in losses:
        _, state = optimizer.update(PARAMS, state, PARAMS, value=jnp.float32(loss))
    return state


def test_the_mean_is_arithmetic_first_and_then_exponential():
    losses = np.random.default_rng(0).uniform(1.0, 2.0, 2 * SPIKE_MEMORY)
    state = after(losses[:SPIKE_MEMORY], track_loss())
    np.testing.assert_allclose(state.loss_mean, losses[:SPIKE_MEMORY].mean(), rtol=1e-5)
    expected = losses[:SPIKE_MEMORY].mean()
    for loss in losses[SPIKE_MEMORY:]:
        expected += (loss - expected) / SPIKE_MEMORY
    state = after(losses, track_loss())
    np.testing.assert_allclose(state.loss_mean, expected, rtol=1e-5)
    assert state.loss_count == 2 * SPIKE_MEMORY


def test_updates_pass_through_it():
    plain, tracked = optax.adam(0.1), optax.chain(optax.adam(0.1), track_loss())
    states = [optimizer.init(PARAMS) for optimizer in (plain, tracked)]
    expected, _ = plain.update(PARAMS, states[0], PARAMS)
    updates, _ = tracked.update(PARAMS, states[1], PARAMS, value=jnp.float32(1.0))
    np.testing.assert_array_equal(updates["kernel"], expected["kernel"])


@pytest.mark.parametrize(("loss", "spike"), [(2.9, False), (3.1, True), (np.inf, True), (np.nan, False)])
def test_a_spike_is_above_the_factor_times_the_mean(loss, spike):
    optimizer = optax.chain(optax.adam(0.1), track_loss())  # found at any depth of the state
    for count in (SPIKE_WARMUP - 1, SPIKE_WARMUP):
        state = after([1.5] * count, optimizer)
        assert bool(is_spike(state, jnp.float32(loss), 2.0)) == (spike and count == SPIKE_WARMUP)
