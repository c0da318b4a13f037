"""Masked language modelling and classification against NumPy, and what padding may not do to them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import exact, reference_activation, reference_dense, reference_hidden, reference_norm, reference_row
from tiers import other_rows_slow
from tiny_models import LENGTH, jitted, quick_jit, random_params, random_tokens, tiny_config

from jaxdp.errors import UserError
from jaxdp.model import POOLINGS, Transformer

BERT = {
    "architecture": "encoder",
    "norm_position": "post",
    "embedding_norm": True,
    "num_token_types": 2,
    "use_bias": True,
}


def classifier_config(**overrides):
    return tiny_config(**BERT | {"head": "classification", "num_labels": 3} | overrides)


@pytest.mark.parametrize("options", [{}, {"use_bias": False, "tie_embeddings": False, "norm_position": "pre"}])
def test_masked_lm_equals_numpy(options):
    config = tiny_config(**BERT | {"head": "masked_lm"} | options)
    params, tokens = random_params(config), random_tokens()
    actual = jitted(config)(params, tokens)
    expected = np.stack([reference_row(exact(params), row, config) for row in np.asarray(tokens)])
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)
    places = jnp.asarray([[5, 0, 2], [7, 7, 1]])
    some = jitted(config)(params, tokens, predict_at=places)
    np.testing.assert_allclose(some, np.take_along_axis(actual, places[:, :, None], 1), atol=1e-5)


def test_token_types_are_added():
    config = tiny_config(**BERT)
    params, tokens, apply = random_params(config), random_tokens(), jitted(config)
    types = jnp.arange(LENGTH)[None, :] // 5 + jnp.zeros((2, 1), jnp.int32)
    moved = params["position_embedding"] + params["token_type_embedding"][types[0]]
    moved -= params["token_type_embedding"][:1]
    expected = apply(params | {"position_embedding": moved}, tokens)
    np.testing.assert_allclose(apply(params, tokens, token_types=types), expected, atol=2e-5)
    np.testing.assert_array_equal(apply(params, tokens), apply(params, tokens, token_types=types * 0))
    assert np.isnan(apply(params, tokens, token_types=types + 2)).any()


@pytest.mark.parametrize(
    ("architecture", "pooling"),
    other_rows_slow(
        itertools.product(("encoder", "decoder"), POOLINGS),
        ("encoder", "first"),
        ("encoder", "mean"),
        ("decoder", "last"),
    ),
)
def test_a_classifier_equals_numpy_and_padding_on_either_side_is_invisible(architecture, pooling):
    config = classifier_config(pooling=pooling, architecture=architecture)
    params, tokens, apply = random_params(config), random_tokens(length=5), jitted(config)
    hidden = np.stack([reference_hidden(exact(params), row, config) for row in np.asarray(tokens)])
    p = exact(params)["classifier"]
    pooled = {"first": hidden[:, 0], "mean": hidden.mean(1), "last": hidden[:, -1]}[pooling]
    if pooling == "first":
        pooled = np.tanh(pooled @ p["pooler"]["kernel"] + p["pooler"]["bias"])
    expected = pooled @ p["output"]["kernel"] + p["output"]["bias"]
    actual = apply(params, tokens)
    assert actual.shape == (2, 3) and actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-4)
    for before in (0, 2):
        padded = np.pad(tokens, ((0, 0), (before, 3 - before)), constant_values=7)
        inside = np.broadcast_to((np.arange(LENGTH) >= before) & (np.arange(LENGTH) < before + 5), padded.shape)
        places = np.broadcast_to(np.maximum(np.arange(LENGTH) - before, 0), padded.shape)
        masked = apply(params, jnp.asarray(padded), attention_mask=jnp.asarray(inside), positions=jnp.asarray(places))
        np.testing.assert_allclose(masked, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    ("pooler", "pooling", "use_bias"),
    [("relu", "first", True), ("gelu_norm", "mean", False), ("none", "first", True), ("tanh", "last", False)],
)
def test_poolers_equal_numpy(pooler, pooling, use_bias):
    """DistilBERT's and ModernBERT's, and two that no published model has; class scores without a bias."""
    config = classifier_config(pooler=pooler, pooling=pooling, use_bias=use_bias, classifier_bias=False)
    params, tokens = random_params(config), random_tokens()
    hidden = np.stack([reference_hidden(exact(params), row, config) for row in np.asarray(tokens)])
    p = exact(params)["classifier"]
    pooled = {"first": hidden[:, 0], "mean": hidden.mean(1), "last": hidden[:, -1]}[pooling]
    if pooler != "none":
        dense = reference_dense(pooled, p["pooler"])
        pooled = np.tanh(dense) if pooler == "tanh" else reference_activation(dense, pooler.removesuffix("_norm"))
    if pooler == "gelu_norm":
        assert "bias" not in p["pooler"], "follows use_bias"
        pooled = reference_norm(pooled, p["pooler_norm"], config)
    assert "bias" not in p["output"]
    np.testing.assert_allclose(jitted(config)(params, tokens), pooled @ p["output"]["kernel"], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_gets_no_gradient(pooling):
    """Tokens 0 .. LENGTH - 1 in order: row k of the embedding is token k alone."""
    config = classifier_config(pooling=pooling)
    params, model = random_params(config), Transformer(config)
    valid = np.arange(LENGTH) < 6

    def scores(embedding):
        given = {"params": params | {"token_embedding": embedding}}
        return model.apply(given, jnp.arange(LENGTH)[None], attention_mask=jnp.asarray(valid)[None]).sum()

    gradient = quick_jit(jax.grad(scores))(params["token_embedding"])
    np.testing.assert_array_equal(np.abs(gradient[:LENGTH]).sum(-1) > 0, valid)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_row_of_padding_is_finite(pooling):
    config = classifier_config(pooling=pooling)
    scores = jitted(config)(random_params(config), random_tokens(), attention_mask=jnp.zeros((2, LENGTH), bool))
    assert np.isfinite(scores).all()


def test_hidden_states_are_those_that_the_head_reads():
    config = tiny_config(**BERT)
    params, tokens = random_params(config), random_tokens()
    hidden = jitted(config, method="encode")(params, tokens)
    expected = jitted(config)(params, tokens)
    np.testing.assert_allclose(hidden @ params["token_embedding"].T, expected, atol=2e-5)


def test_a_head_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"architecture = decoder does not support the head masked_lm.*is encoder"):
        tiny_config(head="masked_lm")
    with pytest.raises(
        UserError, match=r"encoder_decoder does not support the head classification.*encoder or decoder"
    ):
        classifier_config(architecture="encoder_decoder")
    with pytest.raises(ValueError, match="num_labels = 0"):
        classifier_config(num_labels=0)
    with pytest.raises(ValueError, match="unknown head 'regression'"):
        tiny_config(head="regression")
