"""Exact properties of the named options of a model; the parity tests cover their values."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from reference import exact, reference_row
from tiny_models import VOCAB_SIZE, jitted, quick_jit, random_params, random_tokens, tiny_config

from jaxdp.model import init_params, stack_layers
from jaxdp.trees import named_leaves


def test_with_qk_norm_the_scale_of_query_and_key_kernels_changes_nothing():
    config = tiny_config(qk_norm=True, positions="rotary", norm_epsilon=1e-12)
    params, apply = random_params(config), jitted(config)
    scaled = params | {"layer_1": params["layer_1"] | {"attention": dict(params["layer_1"]["attention"])}}
    for name, factor in (("query", 30.0), ("key", 0.2)):
        scaled["layer_1"]["attention"][name] = {"kernel": factor * params["layer_1"]["attention"][name]["kernel"]}
    np.testing.assert_allclose(apply(scaled, random_tokens()), apply(params, random_tokens()), rtol=1e-4, atol=1e-5)


@functools.cache
def initial_params(**overrides):
    return quick_jit(functools.partial(init_params, tiny_config(**overrides)))(jax.random.key(0))


@pytest.mark.parametrize(("architecture", "scan_layers"), [("decoder", False), ("encoder_decoder", True)])
def test_with_zero_init_residual_the_output_of_every_branch_is_zero_and_nothing_else_changes(architecture, scan_layers):
    shapes = {"architecture": architecture, "scan_layers": scan_layers}
    plain = dict(named_leaves(initial_params(**shapes)))
    for name, leaf in named_leaves(initial_params(**shapes, zero_init_residual=True)):
        if name.endswith(("attention/out/kernel", "mlp/down/kernel")):
            assert not leaf.any() and plain[name].all(), name
        else:
            np.testing.assert_array_equal(leaf, plain[name], err_msg=name)


def test_with_zero_init_residual_blocks_are_initially_the_identity():
    """The model then ends where one without layers would: at the norm of the embeddings."""
    config = tiny_config(zero_init_residual=True, positions="rotary")
    params, tokens = initial_params(zero_init_residual=True, positions="rotary"), random_tokens()
    table = np.asarray(params["token_embedding"], np.float64)
    hidden = table[tokens]
    hidden -= hidden.mean(-1, keepdims=True)
    hidden /= np.sqrt((hidden**2).mean(-1, keepdims=True) + config.norm_epsilon)
    np.testing.assert_allclose(jitted(config)(params, tokens), hidden @ table.T, rtol=1e-5, atol=1e-5)


def test_residual_scalars_initially_change_nothing():
    params, tokens = initial_params(residual_scalars=True), random_tokens()
    logits = jitted(tiny_config(residual_scalars=True))(params, tokens)
    np.testing.assert_allclose(logits, jitted(tiny_config())(initial_params(), tokens), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("num_layers", "scan_layers"), [(3, False), (4, True)])
def test_every_second_layer_up_to_the_last_has_value_embeddings(num_layers, scan_layers):
    config = tiny_config(value_embeddings=True, num_layers=num_layers, num_kv_heads=2)
    params, tokens = random_params(config), random_tokens(1)
    tables = [params[name]["embedding"].shape for name in params if name.startswith("value_embedding_")]
    assert tables == [(VOCAB_SIZE, 8)] * ((num_layers + 1) // 2)
    apply = jitted(dataclasses.replace(config, scan_layers=scan_layers))
    logits = apply(stack_layers(params) if scan_layers else params, tokens)
    np.testing.assert_allclose(
        logits[0], reference_row(exact(params), np.asarray(tokens[0]), config), rtol=2e-4, atol=2e-4
    )


def test_a_small_step_of_a_residual_scalar_changes_a_bfloat16_model():
    """A step of 0.001 from 1, which no bfloat16 number can make."""
    params, apply = initial_params(residual_scalars=True), jitted(tiny_config(residual_scalars=True, dtype="bfloat16"))
    layer = params["layer_1"] | {"residual_scalar": params["layer_1"]["residual_scalar"] + 1e-3}
    assert (apply(params | {"layer_1": layer}, random_tokens()) != apply(params, random_tokens())).any()
