"""Exact properties of the named options of a model; the parity tests cover their values."""

import numpy as np
from tiny_models import jitted, random_params, random_tokens, tiny_config


def test_with_qk_norm_the_scale_of_query_and_key_kernels_changes_nothing():
    config = tiny_config(qk_norm=True, positions="rotary", norm_epsilon=1e-12)
    params, apply = random_params(config), jitted(config)
    scaled = params | {"layer_1": params["layer_1"] | {"attention": dict(params["layer_1"]["attention"])}}
    for name, factor in (("query", 30.0), ("key", 0.2)):
        scaled["layer_1"]["attention"][name] = {"kernel": factor * params["layer_1"]["attention"][name]["kernel"]}
    np.testing.assert_allclose(apply(scaled, random_tokens()), apply(params, random_tokens()), rtol=1e-4, atol=1e-5)
