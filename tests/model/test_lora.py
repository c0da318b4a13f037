"""Low-rank adapters: nothing changes at first, merged they compute the same, and only they and a classifier train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import jitted, random_params, random_tokens, tiny_config

from jaxdp.errors import UserError
from jaxdp.model import Transformer, init_params, parameter_shapes
from jaxdp.model.lora import FROZEN, LORA_A, LORA_B, merged_kernel
from jaxdp.optim.scaling import update_scales
from jaxdp.trees import named_leaves

LORA = {"lora_rank": 3, "lora_alpha": 6.0, "lora_layers": ("attention/(query|out)", "mlp/.*")}


def without_adapters(params, factor):
    """The parameters of the model without adapters that computes the same."""
    if LORA_A in params:
        merged = merged_kernel(*(np.asarray(params[name]) for name in ("kernel", LORA_A, LORA_B)), factor)
        rest = {name: leaf for name, leaf in params.items() if name not in (LORA_A, LORA_B)}
        return rest | {"kernel": merged}
    return {name: without_adapters(leaf, factor) if isinstance(leaf, dict) else leaf for name, leaf in params.items()}


@pytest.mark.parametrize("scan_layers", [False, True])
def test_merged_adapters_compute_the_same(scan_layers):
    config = tiny_config(**LORA, scan_layers=scan_layers)
    params, tokens = random_params(config), random_tokens()
    merged = without_adapters(params, 2.0)
    plain = tiny_config(scan_layers=scan_layers)
    assert jax.tree.structure(merged) == jax.tree.structure(parameter_shapes(plain))
    found, without = jitted(config)(params, tokens), jitted(plain)(merged, tokens)
    np.testing.assert_allclose(found, without, rtol=1e-4, atol=1e-4)
    factor_of_one = jitted(plain)(without_adapters(params, 1.0), tokens)
    assert np.abs(found - factor_of_one).max() > 0.01


def test_at_first_they_add_nothing_and_their_bounds_are_those_of_pytorch():
    params = init_params(tiny_config(**LORA), jax.random.key(0))
    layer = params["layer_0"]["attention"]["query"]
    assert not np.any(layer[LORA_B])
    width = layer[LORA_A].shape[0]
    assert 0.8 / width**0.5 < np.abs(layer[LORA_A]).max() <= 1 / width**0.5
    assert LORA_A not in params["layer_0"]["attention"]["key"]


def test_only_adapters_and_a_classifier_train():
    config = tiny_config(**LORA, architecture="encoder", head="classification", num_labels=3, scan_layers=True)
    shapes = parameter_shapes(config)
    trained = {name for name, scale in named_leaves(update_scales(shapes, ((FROZEN, 0.0),), 1.0)) if np.any(scale)}
    expected = {name for name, _ in named_leaves(shapes) if "lora_" in name or name.startswith("classifier/")}
    assert trained == expected
    assert len(trained) >= 10


def test_the_gradient_of_an_adapter_is_that_of_its_formula():
    """d/da of `sum(c * factor * (x @ a) @ b)` is `factor * x.T @ c @ b.T`."""
    from jaxdp.model.layers import Dense
    from jaxdp.model.lora import Lora

    layer = Dense(4, 5, False, "float32", "cpu", 0.1, Lora(2, 1.5))
    rng = np.random.default_rng(0)
    params = {"kernel": (4, 5), LORA_A: (4, 2), LORA_B: (2, 5)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in params.items()}
    inputs, cotangent = rng.normal(size=(3, 4)), rng.normal(size=(3, 5))

    def loss(params):
        return (layer.apply({"params": params}, jnp.float32(inputs)) * jnp.float32(cotangent)).sum()

    expected = 1.5 * inputs.T @ cotangent @ np.asarray(params[LORA_B], float).T
    np.testing.assert_allclose(jax.grad(loss)(params)[LORA_A], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"lora_rank": -1}, "model.lora_rank is -1"),
        ({"lora_alpha": -1.0}, "model.lora_alpha is -1"),
        ({"lora_layers": ()}, "set it to a tuple of regular expressions of attention/query"),
        ({"lora_layers": ("mlp/(",)}, "which is not a regular expression"),
        ({"lora_layers": ("mlp/gate",)}, "matches no dense layer of this model"),
        ({"lora_layers": ("cross_attention/query",)}, "matches no dense layer of this model"),
    ],
)
def test_adapters_that_the_model_cannot_have_are_refused(changed, problem):
    with pytest.raises(UserError, match=problem.replace("(", r"\(").replace(".", r"\.")):
        tiny_config(**LORA | changed)


def test_a_decoder_with_a_source_has_adapters_of_cross_attention():
    config = tiny_config(**LORA | {"lora_layers": ("cross_attention/key",)}, architecture="encoder_decoder")
    shapes = jax.eval_shape(lambda: Transformer(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32), target_tokens=jnp.zeros((1, 1), jnp.int32)))["params"]  # fmt: skip
    assert {name.split("/")[0] for name, _ in named_leaves(shapes) if "lora_" in name} == {"decoder"}
