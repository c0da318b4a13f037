"""Dropout masks belong to rows: rate, scale, and independence of everything else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import (
    LENGTH,
    UNOPTIMISED,
    jitted,
    quick_jit,
    random_params,
    random_tokens,
    tiny_config,
)

from jaxdp.model import Transformer, attention, block, heads, parameter_shapes, stack
from jaxdp.model.dropout import SITES, dropout


def row_keys(batch):
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    return fold(jax.random.key(5), jnp.arange(batch))


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("width", [64, 65])
def test_rate_and_mean(rate, width):
    values = jnp.ones((4, 100, width))
    dropped = dropout(values, row_keys(4), rate=rate, layer=1, site="attention")
    deviation = np.sqrt(rate * (1 - rate) / values.size)
    assert abs(float((dropped == 0).mean()) - rate) < 4 * deviation
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / (1 - rate)], rtol=2e-5)


def test_every_row_layer_and_site_has_its_own_mask():
    masks = {
        np.asarray(row == 0).tobytes()
        for layer in range(3)
        for site in SITES
        for row in dropout(jnp.ones((3, 64)), row_keys(3), rate=0.5, layer=layer, site=site)
    }
    assert len(masks) == 3 * len(SITES) * 3


def test_masks_of_the_first_sites_are_pinned():
    """Adding a site must not change the run of an older checkpoint: numbers 0, 1, 2, ... are its keys."""
    numbers = [(layer, site) for layer in range(3) for site in SITES[:4]]
    for number, (layer, site) in enumerate(numbers):
        bits = jax.random.bits(jax.random.fold_in(row_keys(1)[0], number), (32,), jnp.uint32)
        kept = np.concatenate([bits & 0xFFFF, bits >> 16]) < 2**15
        dropped = dropout(jnp.ones((1, 64)), row_keys(1), rate=0.5, layer=layer, site=site)
        np.testing.assert_array_equal(dropped[0] > 0, kept)


def test_neighbouring_values_are_independent():
    """Two values share one draw of 32 bits: all four outcomes must be equally frequent."""
    kept = dropout(jnp.ones((1, 20000, 2)), row_keys(1), rate=0.5, layer=0, site="embedding")[0] > 0
    counts = np.bincount(np.asarray(kept) @ np.array([1, 2]), minlength=4)
    np.testing.assert_allclose(counts / 20000, 0.25, atol=0.015)


def test_no_rate_and_no_keys_cost_nothing():
    values = jnp.ones((2, 3))
    assert dropout(values, None, rate=0.5, layer=0, site="embedding") is values
    assert dropout(values, row_keys(2), rate=0.0, layer=0, site="embedding") is values


def test_dropout_is_on_exactly_when_row_keys_are_given():
    config = tiny_config(dropout_rate=0.5)
    params, tokens, apply = random_params(config), random_tokens(), jitted(config)
    without = apply(params, tokens)
    np.testing.assert_array_equal(without, jitted(tiny_config())(params, tokens))
    assert np.abs(apply(params, tokens, row_keys=row_keys(2)) - without).max() > 0.1


def sites_of(config, monkeypatch, **inputs):
    """(layer, site, shape) of every dropout of one forward pass, in turn."""
    seen, attention_sites = [], ("attention", "cross_attention")

    def record(values, row_keys, *, rate, layer, site):
        expected = config.attention_dropout_rate if site in attention_sites else config.dropout_rate
        assert row_keys is not None and rate == expected
        seen.append((layer, site, values.shape))
        return values

    params = parameter_shapes(config)
    apply = functools.partial(Transformer(config).apply, row_keys=row_keys(2))
    with monkeypatch.context() as patched:
        for module in (attention, block, heads, stack):
            patched.setattr(module, "dropout", record)
        jax.eval_shape(apply, {"params": params}, random_tokens(), **inputs)
    return seen


def sites_of_layer(number, length, source_length=None):
    stream = (2, length, 16)
    crossed = [
        (number, "cross_attention", (2, 4, length, source_length)),
        (number, "cross_attention_residual", stream),
    ]
    return [
        (number, "attention", (2, 4, length, length)),
        (number, "attention_residual", stream),
        *(crossed if source_length else []),
        (number, "mlp_residual", stream),
    ]


def test_every_layer_drops_out_at_every_site(monkeypatch):
    first = (0, "embedding", (2, LENGTH, 16))
    layers = [site for i in range(2) for site in sites_of_layer(i, LENGTH)]
    assert sites_of(tiny_config(dropout_rate=0.3), monkeypatch) == [first, *layers]
    config = tiny_config(dropout_rate=0.3, head="classification", num_labels=3)
    assert sites_of(config, monkeypatch) == [first, *layers, (0, "classifier", (2, 16))]
    # The layers of a decoder are counted on from those of its encoder.
    config = tiny_config(architecture="encoder_decoder", dropout_rate=0.3, attention_dropout_rate=0.2)
    target = [site for i in (2, 3) for site in sites_of_layer(i, 5, LENGTH)]
    assert sites_of(config, monkeypatch, target_tokens=random_tokens(length=5)) == [
        first,
        *layers,
        (2, "embedding", (2, 5, 16)),
        *target,
    ]


def test_masks_do_not_depend_on_batch_or_device():
    config = tiny_config(dropout_rate=0.3)
    model, params, tokens = Transformer(config), random_params(config), random_tokens(batch=8)

    def forward(params, tokens, keys):
        return model.apply({"params": params}, tokens, row_keys=keys)

    keys = row_keys(8)
    together = quick_jit(forward)(params, tokens, keys)
    order = np.array([6, 1, 3])
    np.testing.assert_allclose(quick_jit(forward)(params, tokens[order], keys[order]), together[order], atol=1e-5)
    split = tokens.reshape(4, 2, -1), keys.reshape(4, 2)
    spread = jax.pmap(forward, in_axes=(None, 0, 0), devices=jax.devices()[:4]).lower(params, *split)
    apart = spread.compile(compiler_options=UNOPTIMISED)(params, *split)
    np.testing.assert_allclose(np.asarray(apart).reshape(together.shape), together, atol=1e-5)
