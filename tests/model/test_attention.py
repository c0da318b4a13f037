"""Attention backends agree with plain attention, and one is taken only where it supports platform, model and mask."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import other_rows_slow
from tiny_models import jitted, quick_jit, random_params, random_tokens, tiny_config

from jaxdp.errors import UserError
from jaxdp.model import Transformer, attention_line, init_cache, model_backend, parameter_shapes
from jaxdp.model.attention_backends import registry
from jaxdp.model.attention_backends.cudnn import CUDNN, cudnn_attention
from jaxdp.model.attention_backends.plain import reference_attention
from jaxdp.model.attention_backends.splash import SPLASH, splash_attention
from jaxdp.model.masks import make_mask

MIXED = {"attention_window": 3, "attention_window_pattern": (1, 0)}

FIT = {"dtype": "bfloat16", "embed_dim": 32}

KERNELS = {
    "cudnn": functools.partial(cudnn_attention, implementation="xla"),  # its arguments, computed by XLA
    "splash": functools.partial(splash_attention, interpret=True),
}

SEGMENTS = jnp.asarray(np.repeat([[0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 3]], 19, axis=1))
LENGTH = SEGMENTS.shape[1]  # 133: no multiple of 2, as cuDNN wants with a table, nor of the 128 of splash attention
PADDING = jnp.arange(LENGTH)[None, :] < jnp.asarray([[LENGTH], [70]])

MASKS = {
    "causal": {"causal": True},
    "bidirectional": {"causal": False},
    "padding": {"causal": False, "attention_mask": PADDING},
    "packed": {"causal": True, "segment_ids": SEGMENTS},
    "window": {"causal": True, "window": 5},
    "packed window": {"causal": True, "window": 5, "segment_ids": SEGMENTS},
    "everything": {"causal": False, "window": 5, "segment_ids": SEGMENTS, "attention_mask": PADDING},
}

CASES = [
    *[("cudnn", name, LENGTH, 0.0) for name in MASKS],
    ("cudnn", "source", 40, 0.0),
    # Seconds each: the kernel is compiled from its emulation.
    ("splash", "bidirectional", LENGTH, 0.0),
    ("splash", "packed window", LENGTH, 0.5),
    ("splash", "everything", LENGTH, 0.0),
    ("splash", "source", 300, 0.0),
]
QUICK = [
    case
    for case in CASES
    if case[:2] not in {("splash", "source"), ("splash", "bidirectional"), ("cudnn", "packed"), ("cudnn", "window")}
]
"""Each mask, and each part of one, with a kernel."""


@pytest.mark.parametrize(("kernel", "name", "num_keys", "softcap"), other_rows_slow(CASES, *QUICK))
def test_a_kernel_equals_plain_attention_forward_and_backward(kernel, name, num_keys, softcap):
    """Two query heads on one key head; `source` is cross-attention to padded sequences of another length."""
    sources = {"causal": False, "attention_mask": jnp.arange(num_keys)[None, :] < jnp.asarray([[num_keys], [33]])}
    mask = make_mask(**MASKS.get(name, sources))
    table = mask.table(LENGTH, num_keys)
    # The output of a query that sees no key is meaningless.
    reads = jnp.ones((2, LENGTH)) if table is None else jnp.broadcast_to(table.any(-1)[:, 0], (2, LENGTH)) * 1.0
    assert reads.mean() > 0.7
    random = np.random.default_rng(0)
    query = jnp.asarray(random.normal(size=(2, 2, LENGTH, 8)), jnp.float32)
    key, value = jnp.asarray(random.normal(size=(2, 2, 1, num_keys, 8)), jnp.float32)

    def outputs_and_gradients(attend):
        def weighted(*inputs):
            return attend(*inputs, mask, scale=0.4, softcap=softcap) * reads[:, None, :, None]

        outputs, pullback = jax.vjp(weighted, query, key, value)
        return outputs, *pullback(jnp.cos(query))

    plain = functools.partial(reference_attention, platform="cpu")
    found, expected = (
        quick_jit(outputs_and_gradients, static_argnums=0)(attend) for attend in (KERNELS[kernel], plain)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_plain_scores_are_capped_before_the_mask():
    """By hand: one query and two keys whose scores differ by more than the cap; then with one key masked."""
    query, key = jnp.ones((1, 1, 1, 4)), jnp.asarray([3.0, -3.0])[None, None, :, None] * jnp.ones((1, 1, 2, 4))
    value = jnp.asarray([1.0, 0.0])[None, None, :, None] * jnp.ones((1, 1, 2, 4))
    attend = functools.partial(reference_attention, query, key, value, platform="cpu", softcap=2.0)
    score = 2 * np.tanh(6 / 2)  # of the first key; 4 x 3 / sqrt(4) = 6
    expected = np.exp(score) / (np.exp(score) + np.exp(-score))
    np.testing.assert_allclose(attend(make_mask(causal=False)), np.full((1, 1, 1, 4), expected), rtol=1e-6)
    only_second = make_mask(causal=False, attention_mask=jnp.asarray([[False, True]]))
    np.testing.assert_array_equal(attend(only_second), np.zeros((1, 1, 1, 4)))


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_holds_the_keys_less_than_its_size_away(causal):
    table = make_mask(causal=causal, window=2, offset=1).table(3, 5)[0, 0]
    after = 0 if causal else 1
    expected = [[-2 < key - query <= after for key in range(5)] for query in (1, 2, 3)]
    np.testing.assert_array_equal(table, expected)


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_the_model_gives_its_kernel_what_plain_attention_takes(platform, monkeypatch):
    scores = {"attention_scale": 0.7, "attention_logit_softcap": 2.0 * (platform == "tpu")}
    config, calls = tiny_config(**FIT, **MIXED, **scores, platform=platform), []
    params, tokens = random_params(config), random_tokens()
    expected = jitted(dataclasses.replace(config, attention="plain"))(params, tokens)

    def attend(*arguments, **options):
        calls.append(arguments)
        return reference_attention(*arguments, platform=platform, **options)

    here = tuple(dataclasses.replace(one, attend=attend) for one in registry.FUSED)
    monkeypatch.setattr(registry, "FUSED", here)
    np.testing.assert_array_equal(jitted(config)(params, tokens), expected)
    assert [mask.window for *_, mask in calls] == [3, 0]


@pytest.mark.parametrize(
    ("platform", "overrides", "backend", "obstacle"),
    [
        ("cpu", {}, None, None),
        ("gpu", {}, CUDNN, None),
        ("tpu", {}, SPLASH, None),
        ("gpu", {"attention": "plain"}, None, None),
        ("gpu", {"dtype": "float32"}, None, "cudnn attention does not support this model: it needs model.dtype"),
        ("gpu", {"embed_dim": 16}, None, "a head width .* found 4"),
        ("gpu", {"attention_logit_softcap": 50.0}, None, "model.attention_logit_softcap"),
        ("gpu", {"attention_window": 3}, CUDNN, None),
        ("tpu", {"attention_logit_softcap": 50.0, "attention_window": 3, "dtype": "float32"}, SPLASH, None),
        ("gpu", {"positions": "relative"}, None, "model.positions = relative"),
        ("tpu", MIXED, SPLASH, None),
        ("tpu", MIXED | {"scan_layers": True}, None, "model.attention_window_pattern with model.scan_layers"),
        ("tpu", {"positions": "relative"}, None, "splash attention .* model.positions = relative"),
        ("tpu", {"dropout_rate": 0.1}, None, "model.attention_dropout_rate = 0, found 0.1"),
        ("tpu", {"dropout_rate": 0.1, "attention_dropout_rate": 0.0}, SPLASH, None),
        ("tpu", {"attention_dropout_rate": 0.1}, None, "model.attention_dropout_rate = 0, found 0.1"),
    ],
)  # fmt: skip
def test_auto_takes_the_kernel_of_the_platform_or_says_why_not(platform, overrides, backend, obstacle):
    """The platform is that of the configuration: this process runs on CPU devices throughout."""
    config = tiny_config(**FIT | overrides, platform=platform)
    found, reason = model_backend(config)
    assert found is backend
    assert (reason is None) == (obstacle is None) and re.search(obstacle or "", reason or "")
    line = attention_line(config)
    if platform == "cpu":
        assert line is None
    elif obstacle:
        assert line.startswith("plain: ")
    else:
        assert line == (backend.name if backend else "plain, as model.attention says")


@pytest.mark.parametrize(
    ("attention", "platform", "overrides", "named"),
    [
        ("cudnn", "gpu", {"dtype": "float32"}, "model.attention = cudnn does not support .* model.dtype"),
        ("cudnn", "gpu", {"dropout_rate": 0.1}, "model.attention_dropout_rate"),
        ("cudnn", "gpu", {"embed_dim": 16}, "model.embed_dim"),
        ("cudnn", "cpu", {}, "needs the platform gpu, but the devices of this run are cpu"),
        ("splash", "gpu", {}, "model.attention = splash needs the platform tpu, but the devices of this run are gpu"),
        ("splash", "tpu", {"positions": "relative"}, "model.positions = relative"),
    ],
)
def test_a_kernel_asked_for_by_name_is_refused_where_it_cannot_run(attention, platform, overrides, named):
    config = tiny_config(**FIT | {"attention": attention, "platform": platform} | overrides)
    with pytest.raises(UserError, match=named):
        model_backend(config)
    with pytest.raises(UserError, match=named):
        jitted(config)(random_params(config), random_tokens())


def test_a_mask_per_query_is_refused_by_name_and_replaced_with_a_warning():
    tokens, mask = random_tokens(), jnp.ones((2, 8, 8), bool)
    named, auto = (tiny_config(**FIT, platform="tpu", attention=attention) for attention in ("splash", "auto"))
    params = random_params(auto)
    with pytest.raises(UserError, match="splash cannot run this call: it does not support an attention_mask per query"):
        jitted(named)(params, tokens, attention_mask=mask)
    with pytest.warns(UserWarning, match="plain attention in place of splash: it does not support"):
        found = jitted(auto)(params, tokens, attention_mask=mask)
    expected = jitted(tiny_config(**FIT, attention="plain"))(params, tokens, attention_mask=mask)
    np.testing.assert_array_equal(found, expected)


def test_decoding_with_a_cache_is_plain_whatever_kernel_trains():
    config = tiny_config(**FIT, attention="splash", platform="tpu")
    params, tokens = random_params(config), random_tokens()
    found, _ = jitted(config)(params, tokens, cache=init_cache(config, 2, 8))
    expected = jitted(tiny_config(**FIT, attention="plain"))(params, tokens)
    np.testing.assert_allclose(found, expected, atol=0.1)


def test_a_scanned_model_can_be_traced_more_than_once_with_splash_attention():
    """Flax traces the body of a scan first for its constants: values of that trace must not reach the next."""
    config = tiny_config(**FIT, platform="tpu", scan_layers=True, max_length=128)
    traced = [
        jax.make_jaxpr(lambda params: Transformer(config).apply({"params": params}, random_tokens(length=128)))(
            parameter_shapes(config)
        )
        for _ in range(2)
    ]
    assert all("pallas_call" in str(jaxpr) for jaxpr in traced)
