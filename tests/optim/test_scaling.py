"""Learning rates by rule and by layer, frozen parameters, and scanned models like unrolled ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiers import other_rows_slow

from jaxdp.errors import UserError
from jaxdp.model.lora import FROZEN
from jaxdp.model.scanned_layers import stack_layers
from jaxdp.optim import OptimizerConfig, make_optimizer
from jaxdp.optim.optimizers import BUILT_IN
from jaxdp.optim.scaling import (
    holding_frozen,
    layer_scales,
    on_trained,
    scale_by_rules,
    scaling_rules,
    update_scales,
)
from jaxdp.trees import named_leaves


def layer(seed):
    random = np.random.default_rng(seed)
    return {
        "attention": {"kernel": jnp.asarray(random.normal(size=(3, 2)), jnp.float32)},
        "norm": {"scale": jnp.asarray(random.normal(size=3), jnp.float32)},
    }


UNROLLED = {
    "encoder": {"layer_0": layer(0), "layer_1": layer(1), "final_norm": {"scale": jnp.ones(3)}},
    "decoder": {f"layer_{number}": layer(10 + number) for number in range(3)},
    "token_embedding": jnp.ones((5, 3)),
    "embedding_norm": {"scale": jnp.ones(3)},
    "classifier": {"kernel": jnp.ones((3, 2))},
}
RULES = (("encoder/layer_[1-9]/attention/.*", 0.0), ("encoder/.*", 0.5), (".*scale", 3.0), ("token_embedding", 0.0))


def scanned(tree):
    """The same with each stack's layers as one."""
    return tree | {name: stack(tree[name]) for name in ("encoder", "decoder")}


def stack(layers):
    inside = {name: value for name, value in layers.items() if name.startswith("layer_")}
    others = {name: value for name, value in layers.items() if name not in inside}
    ordered = [inside[f"layer_{number}"] for number in range(len(inside))]
    return others | {"layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *ordered)}


def test_the_first_matching_rule_applies():
    scales = dict(named_leaves(update_scales(UNROLLED, RULES, 1.0)))
    assert {name: float(scale) for name, scale in scales.items()} == {
        "encoder/layer_0/attention/kernel": 0.5,
        "encoder/layer_0/norm/scale": 0.5,
        "encoder/layer_1/attention/kernel": 0.0,
        "encoder/layer_1/norm/scale": 0.5,
        "encoder/final_norm/scale": 0.5,
        **{f"decoder/layer_{number}/attention/kernel": 1.0 for number in range(3)},
        **{f"decoder/layer_{number}/norm/scale": 3.0 for number in range(3)},
        "token_embedding": 0.0,
        "embedding_norm/scale": 3.0,
        "classifier/kernel": 1.0,
    }


def test_layer_decay_lowers_the_rates_of_lower_layers():
    scales = layer_scales(UNROLLED, 0.5)
    assert {name: scale for name, scale in scales.items() if "norm/scale" not in name} == {
        "encoder/layer_0/attention/kernel": 0.25,
        "encoder/layer_1/attention/kernel": 0.5,
        "decoder/layer_0/attention/kernel": 0.125,
        "decoder/layer_1/attention/kernel": 0.25,
        "decoder/layer_2/attention/kernel": 0.5,
        "token_embedding": 0.0625,
        "classifier/kernel": 1.0,
    }
    assert scales["embedding_norm/scale"] == 0.0625 and scales["encoder/final_norm/scale"] == 1.0
    assert set(layer_scales(UNROLLED, 1.0).values()) == {1.0}


def test_scanned_models_have_the_scales_of_unrolled_ones():
    expected = scanned(update_scales(UNROLLED, RULES, 0.7))
    actual = update_scales(scanned(UNROLLED), RULES, 0.7)
    for (name, left), (_, right) in zip(named_leaves(actual), named_leaves(expected), strict=True):
        np.testing.assert_allclose(np.ravel(left), np.ravel(right), rtol=1e-6, err_msg=name)
    assert actual["encoder"]["layers"]["attention"]["kernel"].shape == (2, 1, 1)


@pytest.mark.parametrize("arrange", [lambda tree: tree, scanned])
def test_updates_are_scaled_after_everything_else(arrange):
    params = arrange(UNROLLED)
    plain = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(0.01))
    scaled = optax.chain(plain, scale_by_rules(RULES, 0.5))
    gradients = jax.tree.map(jnp.sin, params)
    expected, _ = plain.update(gradients, plain.init(params), params)
    actual, _ = jax.jit(scaled.update)(gradients, scaled.init(params), params)
    scales = update_scales(params, RULES, 0.5)
    jax.tree.map(
        lambda left, right, scale: np.testing.assert_allclose(left, right * scale, rtol=1e-5),
        actual, expected, scales,
    )  # fmt: skip
    assert not actual["token_embedding"].any()


def test_a_factor_of_0_stops_any_update():
    updates = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), UNROLLED)
    actual, _ = scale_by_rules(RULES, 1.0).update(updates, optax.EmptyState())
    assert not np.isnan(actual["token_embedding"]).any() and np.isnan(actual["classifier"]["kernel"]).all()


@pytest.mark.parametrize("arrange", [lambda tree: tree, scanned])
def test_frozen_parameters_have_no_gradient_and_the_others_have_theirs(arrange):
    params = arrange(UNROLLED)

    def loss(params, power):
        return sum(jnp.sum(leaf**power) for leaf in jax.tree.leaves(params))

    held = holding_frozen(loss, RULES)
    assert held(params, 2) == loss(params, 2)
    gradients, scales = jax.grad(held)(params, 2), update_scales(params, RULES, 1.0)
    jax.tree.map(
        lambda gradient, leaf, scale: np.testing.assert_allclose(gradient, 2 * leaf * (scale > 0), rtol=1e-6),
        gradients, params, scales,
    )  # fmt: skip
    assert holding_frozen(loss, (("encoder/.*", 0.5),)) is loss


def test_the_model_stacks_as_this_test_does():
    params = {"layer_0": layer(0), "layer_1": layer(1)}
    jax.tree.map(np.testing.assert_array_equal, stack_layers(params), stack(params))


@pytest.mark.parametrize(
    ("freeze", "scales", "problem"),
    [
        (("layer_[",), (), r"optim\.freeze has 'layer_\[', which is not a regular expression"),
        ((), (("a", -1.0),), r"optim\.scales has the factor -1.0 for 'a'; expected 0 or above"),
        ((), ("ab",), r"optim\.scales has the factor 'b'"),
        ((), ("abc",), r"optim\.scales has 'abc'; expected pairs"),
    ],
)
def test_invalid_rules_are_refused(freeze, scales, problem):
    with pytest.raises(UserError, match=problem):
        scaling_rules(freeze, scales)


@pytest.mark.parametrize(
    ("rules", "layer_decay", "problem"),
    [
        ((("embedding", 0.1),), 1.0, r"has 'embedding', which matches no parameter; .* such as classifier/kernel, "),
        (((".*", 0.0),), 1.0, "freeze every parameter"),
        ((), 0.0, r"optim\.layer_decay is 0.0; expected above 0"),
        ((), 1.5, r"optim\.layer_decay is 1.5"),
    ],
)
def test_rules_that_do_not_fit_the_model_are_refused(rules, layer_decay, problem):
    with pytest.raises(UserError, match=problem):
        update_scales(UNROLLED, rules, layer_decay)


def test_frozen_comes_before_scaled():
    assert scaling_rules(("a",), (("a", 2), ("b", 0.5))) == (("a", 0.0), ("a", 2.0), ("b", 0.5))


FORMS = {"unrolled": lambda tree: tree, "scanned": scanned}


@pytest.mark.parametrize(
    ("name", "form"),
    other_rows_slow(
        itertools.product(BUILT_IN, FORMS),
        *((name, "scanned" if name in ("adamw", "muon") else "unrolled") for name in BUILT_IN),
    ),
)
def test_the_state_has_no_arrays_of_frozen_parameters(name, form):
    """Trained parameters are updated as when all are trained; a scanned stack with a trained layer keeps its state."""
    params = FORMS[form](UNROLLED)
    freeze = ("decoder/.*/kernel", "encoder/layer_0/.*", "token_embedding")
    settings = {
        "name": name, "learning_rate": 0.1, "schedule": "constant", "warmup_steps": 0, "end_learning_rate": 0.0,
        "weight_decay": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-8, "momentum": 0.9, "clip_norm": 0.0, "total_steps": 9,
    }  # fmt: skip
    gradients = jax.tree.map(lambda leaf: 0.3 * leaf + 0.1, params)
    moved, states = {}, {}
    for frozen in ((), freeze):
        optimizer = make_optimizer(OptimizerConfig(**settings, freeze=frozen))
        state, own = optimizer.init(params), params
        states[frozen] = {path for path, _ in named_leaves(state)}
        for _ in range(2):
            changes, state = optimizer.update(gradients, state, own)
            own = optax.apply_updates(own, changes)
        moved[frozen] = dict(named_leaves(own))
    scales = dict(named_leaves(update_scales(params, scaling_rules(freeze, ()), 1.0)))
    held = {path for path, scale in scales.items() if not (scale > 0).any()}
    assert any("decoder" in path for path in held) and "token_embedding" in held
    for path, leaf in moved[freeze].items():
        expected = np.where(scales[path] > 0, moved[()][path], dict(named_leaves(params))[path])
        np.testing.assert_allclose(leaf, expected, rtol=1e-6 if "muon" in name else 0, err_msg=path)  # batched products
    assert states[freeze] == {path for path in states[()] if not path.endswith(tuple(held))}


def test_adapters_alone_have_moments():
    params = {
        "layer_0": {"mlp": {"up": {"kernel": jnp.ones((4, 4)), "lora_a": jnp.ones((4, 2)), "lora_b": jnp.ones((2, 4))}}}
    }
    params |= {"token_embedding": jnp.ones((9, 4)), "classifier": {"output": {"kernel": jnp.ones((4, 2))}}}
    state = on_trained(optax.scale_by_adam(), scaling_rules((FROZEN,), ())).init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 1 + 2 * (8 + 8 + 8)
