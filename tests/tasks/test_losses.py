"""Binary cross-entropy against NumPy in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdp.tasks.losses import binary_cross_entropy

NUM_LABELS = 7


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_binary_cross_entropy_is_its_definition(smoothing):
    random = np.random.default_rng(1)
    logits = random.normal(0, 3, (3, 4, NUM_LABELS)).astype(np.float32)
    targets = random.integers(0, 2, logits.shape).astype(np.float32)
    positive = random.uniform(0.5, 3, NUM_LABELS).astype(np.float32)
    actual = binary_cross_entropy(logits, targets, positive_weights=positive[None, None], label_smoothing=smoothing)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    wanted = targets * (1 - smoothing / 2) + (1 - targets) * smoothing / 2
    expected = -positive * wanted * np.log(probabilities) - (1 - wanted) * np.log(1 - probabilities)
    np.testing.assert_allclose(actual, expected, rtol=2e-5)


def test_sure_statements_stay_finite():
    actual = binary_cross_entropy(jnp.array([3e4, 3e4, -3e4]), jnp.array([1.0, 0.0, 1.0]))
    np.testing.assert_allclose(actual, [0, 3e4, 3e4])
