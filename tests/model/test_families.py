"""Models with the options of published families: against NumPy, with a cache, scanned, and their FLOPs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES
from reference import exact, reference_row
from tiers import others_slow
from tiny_models import LENGTH, VOCAB_SIZE, jitted, quick_jit, random_params, random_tokens, tiny_config

from jaxdp.model import (
    Transformer,
    flops_per_sequence,
    flops_per_token,
    init_cache,
    init_params,
    num_parameters,
    parameter_shapes,
    stack_layers,
)
from jaxdp.trees import named_leaves


def target_inputs(config):
    return {"target_tokens": random_tokens(length=6, seed=2)} if config.has_source else {}


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_equals_numpy(family):
    config = tiny_config(**FAMILIES[family])
    params, tokens, inputs = random_params(config), random_tokens(), target_inputs(config)
    targets = inputs.get("target_tokens", [None] * 2)
    expected = [
        reference_row(exact(params), row, config, target)
        for row, target in zip(np.asarray(tokens), targets, strict=True)
    ]
    np.testing.assert_allclose(jitted(config)(params, tokens, **inputs), np.stack(expected), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    "family",
    others_slow([name for name in FAMILIES if tiny_config(**FAMILIES[name]).architecture == "decoder"], "gemma3"),
)
def test_cached_decoding_equals_full_forward(family):
    config = tiny_config(**FAMILIES[family])
    params, tokens, apply = random_params(config), random_tokens(), jitted(config)
    cache, logits = init_cache(config, 2, LENGTH), []
    for start, end in ((0, 3), *((index, index + 1) for index in range(3, LENGTH))):
        part, cache = apply(params, tokens[:, start:end], cache=cache)
        logits.append(part)
    np.testing.assert_allclose(np.concatenate(logits, 1), apply(params, tokens), atol=2e-5)


@pytest.mark.parametrize("family", others_slow(FAMILIES, "gemma3"))
def test_scanned_and_rematerialised_layers_change_no_value_and_no_gradient(family):
    tokens, inputs = random_tokens(), target_inputs(tiny_config(**FAMILIES[family]))

    def loss(params, **options):
        options["first_attention_norm"] = True  # the alternative is for unrolled layers
        model = Transformer(tiny_config(**FAMILIES[family] | options))
        params = stack_layers(params) if model.config.scan_layers else params
        return jnp.square(model.apply({"params": params}, tokens, **inputs)).mean()

    params = random_params(tiny_config(**FAMILIES[family] | {"first_attention_norm": True}))
    expected = quick_jit(jax.value_and_grad(loss))(params)
    actual = quick_jit(jax.value_and_grad(functools.partial(loss, scan_layers=True, remat="full")))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), actual, expected)


@pytest.mark.parametrize("family", others_slow(FAMILIES, "gemma3"))
def test_initial_models_predict_nearly_uniformly(family):
    """Factors of embeddings, scores and norms must not make the first logits large."""
    config = tiny_config(**FAMILIES[family])
    params = quick_jit(functools.partial(init_params, config))(jax.random.key(0))
    logits = jitted(config)(params, random_tokens(), **target_inputs(config))
    assert np.abs(logits).max() < 8
    for name, leaf in named_leaves(params):
        if name.endswith("scale"):
            np.testing.assert_array_equal(leaf, 1 - config.norm_offset, err_msg=name)


def test_flops_of_heads_of_another_width_by_hand():
    """Projections to 4 query heads and 1 key head of 6 features, and a gated MLP."""
    config = tiny_config(**FAMILIES["qwen3"])
    layer = 16 * 6 * (4 + 4 + 1 + 1) + 2 * 6 + 3 * 16 * 24 + 2 * 16
    multiplied = 2 * layer + 16 + 16 * VOCAB_SIZE
    assert num_parameters(config) == multiplied
    assert flops_per_sequence(config, LENGTH) == 6 * multiplied * LENGTH + 12 * 2 * 4 * 6 * LENGTH**2


def test_flops_of_a_pattern_of_windows_by_hand():
    """Of four layers three see 3 keys, and one all."""
    windowed, whole = (
        flops_per_token(tiny_config(**FAMILIES["gemma3"] | changes), LENGTH)
        for changes in ({}, {"attention_window_pattern": (0,)})
    )
    assert whole - windowed == 12 * 4 * 6 * 3 * (LENGTH - 3)


def test_qkv_bias_gives_biases_to_queries_keys_and_values_alone():
    names = [name for name, _ in named_leaves(parameter_shapes(tiny_config(**FAMILIES["qwen2"]))) if "bias" in name]
    assert names == [f"layer_{layer}/attention/{part}/bias" for layer in (0, 1) for part in ("key", "query", "value")]


@pytest.mark.parametrize("head_dim", others_slow([4, 15, 60], 15))
def test_initial_scores_do_not_depend_on_their_factor(head_dim):
    shapes = {"head_dim": head_dim, "num_layers": 1}
    plain, scaled = (
        quick_jit(functools.partial(init_params, tiny_config(**shapes, **options)))(jax.random.key(0))
        for options in ({}, {"attention_scale": 1.0})
    )
    for (name, one), (_, other) in zip(named_leaves(plain), named_leaves(scaled), strict=True):
        factor = head_dim**-0.5 if "query" in name else 1.0
        np.testing.assert_allclose(other, one * factor, rtol=1e-5, err_msg=name)


def test_without_first_attention_norm_the_first_layer_alone_has_none():
    params = parameter_shapes(tiny_config(**FAMILIES["modernbert"]))
    assert ["attention_norm" in params[f"layer_{index}"] for index in range(3)] == [False, True, True]
