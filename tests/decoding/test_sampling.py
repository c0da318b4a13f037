"""Filters on logits against NumPy, and the inputs that a sample depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdp.decoding.sampling import Sampling, filtered_logits, sample_tokens
from jaxdp.errors import UserError

VOCAB_SIZE = 11


def logits_of(rows, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (rows, VOCAB_SIZE)).astype(np.float32)


def kept(logits, **options):
    """Returns the tokens that can be sampled, `[batch, vocab_size] bool`."""
    return np.isfinite(np.asarray(filtered_logits(jnp.asarray(logits), Sampling(**options))))


def reference_kept(row, temperature=1.0, top_k=0, top_p=1.0):
    """One row: the top_k likeliest, then the fewest of them that reach top_p; equals go together."""
    scores = row.astype(np.float64) / temperature
    if top_k:
        scores = np.where(scores >= np.sort(scores)[::-1][:top_k][-1], scores, -np.inf)
    if top_p < 1:
        probabilities = np.exp(scores - scores.max())
        probabilities /= probabilities.sum()
        total, least = 0.0, None
        for score, probability in sorted(zip(scores, probabilities, strict=True), reverse=True):
            if total >= top_p:
                break
            total, least = total + probability, score
        scores = np.where(scores >= least, scores, -np.inf)
    return np.isfinite(scores)


@pytest.mark.parametrize("top_k", [0, 1, 3, VOCAB_SIZE, 100])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.5])
def test_filters_keep_what_the_definition_keeps(temperature, top_k, top_p):
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    logits = logits_of(20)
    expected = [reference_kept(row, **options) for row in logits]
    np.testing.assert_array_equal(kept(logits, **options), expected)


def test_filtering_keeps_relative_probabilities():
    logits = logits_of(4)
    filtered = np.asarray(filtered_logits(jnp.asarray(logits), Sampling(temperature=0.7, top_k=5)))
    np.testing.assert_allclose(filtered[np.isfinite(filtered)], (logits / 0.7)[np.isfinite(filtered)], rtol=1e-6)
    assert np.isfinite(filtered).sum() == 4 * 5


def test_ties_are_kept_or_removed_together():
    logits = np.array([[3.0, 1.0, 1.0, 0.0]], np.float32)
    assert kept(logits, top_k=2).tolist() == [[True, True, True, False]]
    # Probabilities 0.77, 0.10, 0.10, 0.04: the first of the pair is needed to reach 0.8.
    assert kept(logits, top_p=0.8).tolist() == [[True, True, True, False]]
    assert kept(logits, top_p=0.7).tolist() == [[True, False, False, False]]


def test_the_most_likely_token_is_always_kept():
    assert kept(logits_of(20), top_p=1e-9).sum(axis=1).tolist() == [1] * 20


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(top_k=1), Sampling(top_p=1e-9)])
def test_greedy(sampling):
    logits = logits_of(20)
    tokens = sample_tokens(jnp.asarray(logits), jax.random.split(jax.random.key(0), 20), sampling)
    assert tokens.dtype == jnp.int32
    np.testing.assert_array_equal(tokens, logits.argmax(axis=1))


def test_samples_follow_the_probabilities():
    logits = np.array([2.0, 1.0, 0.0, -1.0], np.float32)
    draws = 20000
    tokens = jax.jit(sample_tokens, static_argnums=2)(
        jnp.asarray(np.tile(logits, (draws, 1))),
        jax.random.split(jax.random.key(0), draws),
        Sampling(temperature=2.0, top_k=3),
    )
    weights = np.exp(logits[:3] / 2)
    expected = np.append(weights / weights.sum(), 0.0)
    # Three standard deviations of a share are at most 3 x 0.5 / sqrt(20000) = 0.011.
    np.testing.assert_allclose(np.bincount(tokens, minlength=4) / draws, expected, atol=0.011)


def test_a_sample_depends_on_its_key_and_logits_only():
    keys, logits = jax.random.split(jax.random.key(1), 8), jnp.asarray(logits_of(8))
    sampling = Sampling(top_p=0.95)
    whole = sample_tokens(logits, keys, sampling)
    order = np.array([5, 2, 7])
    np.testing.assert_array_equal(sample_tokens(logits[order], keys[order], sampling), whole[order])
    other = sample_tokens(logits, jax.random.split(jax.random.key(2), 8), sampling)
    assert (np.asarray(other) != np.asarray(whole)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "--temperature=-0.1"),
        ({"temperature": float("nan")}, "--temperature=nan"),
        ({"top_k": -1}, "--top_k=-1"),
        ({"top_p": 0.0}, "--top_p=0.0"),
        ({"top_p": 1.5}, "--top_p=1.5"),
        ({"top_p": float("nan")}, "--top_p=nan"),
    ],
)
def test_invalid_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Sampling(**options)
