"""Cross-entropy and its regularisers against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdp.model.cross_entropy import cross_entropy_sums

BATCH, LENGTH, VOCAB_SIZE = 3, 4, 7


@pytest.fixture(scope="module")
def inputs():
    random = np.random.default_rng(0)
    return (
        random.normal(0, 3, (BATCH, LENGTH, VOCAB_SIZE)).astype(np.float32),
        random.integers(0, VOCAB_SIZE, (BATCH, LENGTH), dtype=np.int32),
        random.choice([0.0, 1.0, 0.5], (BATCH, LENGTH)).astype(np.float32),
    )


def reference(logits, targets, weights, label_smoothing=0.0, z_loss=0.0):
    """Sums over positions one by one, by the definitions: (objective, nats)."""
    objective = nats = 0.0
    for place in np.ndindex(targets.shape):
        scores = logits[place].astype(np.float64)
        log_z = np.log(np.exp(scores).sum())
        log_probabilities = scores - log_z
        wanted = np.full(VOCAB_SIZE, label_smoothing / VOCAB_SIZE)
        wanted[targets[place]] += 1 - label_smoothing
        nats -= weights[place] * log_probabilities[targets[place]]
        objective += weights[place] * (z_loss * log_z**2 - wanted @ log_probabilities)
    return objective, nats


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_sums_equal_the_definitions(inputs, label_smoothing, z_loss):
    actual = jax.jit(lambda *arrays: cross_entropy_sums(
        *arrays, label_smoothing=label_smoothing, z_loss=z_loss
    ))(*inputs)  # fmt: skip
    np.testing.assert_allclose(actual, reference(*inputs, label_smoothing, z_loss), rtol=1e-6)
    assert [value.dtype for value in actual] == [jnp.float32, jnp.float32]


def test_the_gradient_is_softmax_minus_onehot(inputs):
    logits, targets, weights = inputs
    gradient = jax.grad(lambda values: cross_entropy_sums(values, targets, weights)[0])(logits)
    exponentials = np.exp(logits.astype(np.float64))
    probabilities = exponentials / exponentials.sum(-1, keepdims=True)
    expected = (probabilities - np.eye(VOCAB_SIZE)[targets]) * weights[..., None]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_the_gradient_of_z_loss(inputs):
    logits, targets, weights = inputs

    def regulariser(values):
        objective, nats = cross_entropy_sums(values, targets, weights, z_loss=0.01)
        return objective - nats

    gradient = jax.grad(regulariser)(logits)
    exponentials = np.exp(logits.astype(np.float64))
    totals = exponentials.sum(-1, keepdims=True)
    expected = 0.02 * np.log(totals) * exponentials / totals * weights[..., None]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_large_logits_stay_finite():
    logits = np.array([[[3e4, 0.0, -3e4]]], np.float32)
    sums = cross_entropy_sums(logits, np.array([[1]]), np.ones((1, 1), np.float32))
    np.testing.assert_allclose(sums, [3e4, 3e4])


def test_a_position_without_weight_counts_for_nothing(inputs):
    logits, targets, weights = inputs
    other = np.where(weights == 0, (targets + 1) % VOCAB_SIZE, targets)
    assert (other != targets).any()
    np.testing.assert_array_equal(
        cross_entropy_sums(logits, targets, weights), cross_entropy_sums(logits, other, weights)
    )


def test_any_axes_in_front_of_the_vocabulary_will_do(inputs):
    logits, targets, weights = inputs
    flat = cross_entropy_sums(logits.reshape(-1, VOCAB_SIZE), targets.ravel(), weights.ravel(), label_smoothing=0.1)
    np.testing.assert_allclose(flat, cross_entropy_sums(logits, targets, weights, label_smoothing=0.1), rtol=1e-6)
