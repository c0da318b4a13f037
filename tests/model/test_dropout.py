"""Dropout masks belong to rows: rate, scale, and independence of everything else."""

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

from jaxdp.model import Transformer, attention, block, transformer
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


def test_every_layer_drops_out_at_every_site(monkeypatch):
    config, seen = tiny_config(dropout_rate=0.3), []
    params = random_params(config)

    def record(values, row_keys, *, rate, layer, site):
        assert row_keys is not None and rate == 0.3
        seen.append((layer, site, values.shape))
        return values

    for module in (attention, block, transformer):
        monkeypatch.setattr(module, "dropout", record)
    jax.eval_shape(Transformer(config).apply, {"params": params}, random_tokens(), row_keys=row_keys(2))
    stream, weights = (2, LENGTH, 16), (2, 4, LENGTH, LENGTH)
    layers = [
        [(i, "attention", weights), (i, "attention_residual", stream), (i, "mlp_residual", stream)]
        for i in range(2)
    ]
    assert seen == [(0, "embedding", stream), *layers[0], *layers[1]]


def test_a_row_does_not_feel_its_batch_or_device():
    config = tiny_config(dropout_rate=0.3)
    model, params, tokens = Transformer(config), random_params(config), random_tokens(batch=8)

    def forward(params, tokens, keys):
        return model.apply({"params": params}, tokens, row_keys=keys)

    keys = row_keys(8)
    together = quick_jit(forward)(params, tokens, keys)
    order = np.array([6, 1, 3])
    np.testing.assert_allclose(
        quick_jit(forward)(params, tokens[order], keys[order]), together[order], atol=1e-5
    )
    split = tokens.reshape(4, 2, -1), keys.reshape(4, 2)
    spread = jax.pmap(forward, in_axes=(None, 0, 0), devices=jax.devices()[:4]).lower(params, *split)
    apart = spread.compile(compiler_options=UNOPTIMISED)(params, *split)
    np.testing.assert_allclose(np.asarray(apart).reshape(together.shape), together, atol=1e-5)
