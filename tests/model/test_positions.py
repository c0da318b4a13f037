"""Relative positions: the buckets of distances, and what they cannot tell apart."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from reference import reference_bucket
from tiny_models import jitted, random_params, random_tokens, tiny_config

from jaxdp.model import positions as model_positions
from jaxdp.model.positions import relative_bias

relative_buckets = functools.partial(model_positions.relative_buckets, num_buckets=32, max_distance=128)


@pytest.mark.parametrize("causal", [True, False])
def test_buckets_are_the_published_ones(causal):
    positions = jnp.arange(300)[None]
    actual = relative_buckets(positions, positions, causal=causal)[0]
    expected = [[reference_bucket(q - k, causal) for k in range(300)] for q in range(300)]
    np.testing.assert_array_equal(actual, expected)
    assert (actual.min(), actual.max()) == (0, 31)


def test_published_values():
    """By hand from the formula: 16 exact buckets of 32, then 16 steps of 8 ** (1 / 16)."""
    query = jnp.asarray([[500]])
    keys = jnp.asarray([[500, 485, 484, 482, 400, 373, 372, 0, 501]])
    assert relative_buckets(query, keys, causal=True).tolist() == [[[0, 15, 16, 16, 30, 31, 31, 31, 0]]]
    assert relative_buckets(query, keys, causal=False).tolist() == [[[0, 9, 10, 10, 15, 15, 15, 15, 17]]]


def test_the_bias_of_a_head_is_its_column():
    table = jnp.arange(64.0).reshape(32, 2)
    bias = relative_bias(table, jnp.asarray([[[0, 3], [31, 1]]]))
    assert bias.tolist() == [[[[0, 6], [62, 2]], [[1, 7], [63, 3]]]]


def test_only_distances_count():
    config = tiny_config(positions="relative")
    params, tokens, apply = random_params(config), random_tokens(), jitted(config)
    places = jnp.arange(8)[None]
    np.testing.assert_allclose(apply(params, tokens, positions=places + 70), apply(params, tokens), atol=2e-5)
    assert np.abs(apply(params, tokens, positions=places * 2) - apply(params, tokens)).max() > 0.1
