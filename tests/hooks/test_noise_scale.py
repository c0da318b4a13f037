"""Gradient noise scale against the covariance of gradients of single sequences, in NumPy float64."""

import numpy as np
import pytest
from tiny_training import LENGTH, ROWS, TinyStep, batch_of, bigram_params, plain_update, reference, uneven_batch

from jaxdp.hooks.noise_scale import NoiseScale, estimates


def flat(gradient):
    return np.concatenate([leaf.reshape(-1) for leaf in gradient.values()])


def rows(batch, start, stop):
    return {name: array[start:stop] for name, array in batch.items()}


def gradients_of(params, batch, size):
    """The mean gradient of each share of a batch, `[shares, elements] float64`."""
    shares = (rows(batch, start, start + size) for start in range(0, ROWS, size))
    return np.stack([flat(reference(params, share)[1]) for share in shares])


def test_with_single_sequences_the_estimates_are_the_covariance_and_the_unbiased_norm():
    params, batch = bigram_params(), batch_of([LENGTH] * ROWS)
    gradients = gradients_of(params, batch, 1)
    mean = gradients.mean(0)
    variance, squared_norm = estimates((gradients**2).sum(1).mean(), (mean**2).sum(), 1, ROWS)
    trace = np.trace(np.cov(gradients.T))
    assert variance == pytest.approx(trace, rel=1e-12)
    assert squared_norm == pytest.approx((mean**2).sum() - trace / ROWS, rel=1e-12)


def test_estimates_are_unbiased_at_any_two_sizes():
    random = np.random.default_rng(0)
    true_mean, scale = np.array([1.0, -2.0, 0.5]), np.array([3.0, 1.0, 2.0])
    small, large, trials = 4, 32, 20_000
    examples = true_mean + scale * random.standard_normal((trials, large, 3))
    shares = examples.reshape(trials, large // small, small, 3).mean(2)
    found = estimates((shares**2).sum(-1).mean(), (examples.mean(1) ** 2).sum(-1).mean(), small, large)
    np.testing.assert_allclose(found, [(scale**2).sum(), (true_mean**2).sum()], rtol=0.02)


@pytest.mark.parametrize(("num_devices", "num_microbatches"), [(8, 1), (2, 4)])
def test_the_step_measures_the_gradients_of_single_devices(num_devices, num_microbatches):
    update = plain_update(clip_norm=0.01)
    step = TinyStep(num_devices, num_microbatches, update=update, with_device_squares=True)
    params, size = bigram_params(), ROWS // num_devices
    batch = uneven_batch()
    _, metrics = step(step.fresh_state(), batch)
    weights = batch["loss_weights"].reshape(num_devices, -1).sum(1)
    shares = gradients_of(params, batch, size) * (weights / weights.mean())[:, None]
    np.testing.assert_allclose(metrics["device_squares"], (shares**2).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(shares.mean(0)), rtol=1e-5)


def test_numerator_and_denominator_are_averaged_apart():
    noise, pairs = NoiseScale(4, 32, decay=0.5), [(3.0, 1.0), (5.0, 2.0), (9.0, 1.5)]
    assert np.isnan(noise.value)
    for pair in pairs:
        noise.add(*pair)
    noise.add(float("nan"), 1.0)
    noise.add(1.0, float("inf"))
    weights = np.array([0.25, 0.5, 1.0])
    variances = np.array([(small - large) / (1 / 4 - 1 / 32) for small, large in pairs])
    norms = np.array([(32 * large - 4 * small) / 28 for small, large in pairs])
    assert noise.value == pytest.approx((weights @ variances) / (weights @ norms), rel=1e-12)


def test_no_value_while_noise_hides_the_gradient():
    noise = NoiseScale(4, 32)
    noise.add(100.0, 1.0)
    assert np.isnan(noise.value)
