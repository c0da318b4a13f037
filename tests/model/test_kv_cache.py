"""Decoding with a cache gives the logits of the full forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import other_rows_slow, others_slow
from tiny_models import LENGTH, jitted, quick_jit, random_params, random_tokens, tiny_config

from jaxdp.model import CHOICES, Transformer, init_cache

OPTIONS = {
    "attention_window": 3, "attention_logit_softcap": 0.5, "qk_norm": True, "residual_scalars": True, "logit_softcap": 2.0,
    "value_embeddings": True,
}  # fmt: skip

SCHEMES = [
    (positions, num_kv_heads, scan_layers)
    for positions in CHOICES["positions"]
    for num_kv_heads, scan_layers in ((4, False), (2, True))
]


TOKEN_BY_TOKEN, IN_CHUNKS = (1,) * LENGTH, (5, 1, 2)


@pytest.mark.parametrize(
    ("positions", "num_kv_heads", "scan_layers", "chunks"),
    other_rows_slow(
        [(*scheme, TOKEN_BY_TOKEN) for scheme in SCHEMES] + [(*SCHEMES[0], IN_CHUNKS), (*SCHEMES[-1], IN_CHUNKS)],
        *((*SCHEMES[index], TOKEN_BY_TOKEN) for index in (1, 2, 4, 7)),
        (*SCHEMES[0], IN_CHUNKS),
    ),
)
def test_cached_decoding_equals_full_forward(positions, num_kv_heads, scan_layers, chunks):
    options = OPTIONS if num_kv_heads == 2 else {}
    config = tiny_config(positions=positions, num_kv_heads=num_kv_heads, scan_layers=scan_layers, **options)
    params, tokens = random_params(config), random_tokens()
    apply = jitted(config)
    cache, logits, start = init_cache(config, 2, LENGTH), [], 0
    shape = (2, num_kv_heads, LENGTH, 4)
    assert [leaf.shape for leaf in jax.tree.leaves(cache.values)] == ([(2, *shape)] if scan_layers else [shape] * 2)
    for length in chunks:
        part, cache = apply(params, tokens[:, start : start + length], cache=cache)
        logits.append(part)
        start += length
        assert cache.index == start
    np.testing.assert_allclose(np.concatenate(logits, 1), apply(params, tokens), atol=2e-5)


@pytest.mark.parametrize(
    ("positions", "num_kv_heads", "scan_layers"),
    other_rows_slow(SCHEMES[1::2], *(scheme for scheme in SCHEMES[1::2] if scheme[0] in ("learned", "rotary"))),
)
def test_left_padded_prompts_of_several_lengths(positions, num_kv_heads, scan_layers):
    """Each row decodes as it would alone, from a prompt padded on the left."""
    config = tiny_config(positions=positions, num_kv_heads=num_kv_heads, scan_layers=scan_layers)
    params, tokens = random_params(config), np.asarray(random_tokens())
    apply = jitted(config)
    prompt, padding = 5, np.array([0, 3])
    rows = [row[: LENGTH - pad] for row, pad in zip(tokens, padding, strict=True)]
    padded = np.stack([np.pad(row, (pad, 0)) for row, pad in zip(rows, padding, strict=True)])
    places = np.maximum(np.arange(LENGTH)[None] - padding[:, None], 0)
    attend = jnp.asarray(np.arange(LENGTH)[None] >= padding[:, None])
    cache, logits = init_cache(config, 2, LENGTH), []
    for start, end in [(0, prompt), *((i, i + 1) for i in range(prompt, LENGTH))]:
        part, cache = apply(
            params,
            jnp.asarray(padded[:, start:end]),
            positions=jnp.asarray(places[:, start:end]),
            attention_mask=attend,
            cache=cache,
        )
        logits.append(part)
    logits = np.concatenate(logits, 1)
    for index, (row, pad) in enumerate(zip(rows, padding, strict=True)):
        alone = apply(params, jnp.asarray(row)[None])[0]
        np.testing.assert_allclose(logits[index, pad:], alone, atol=2e-5)


@pytest.mark.parametrize("positions", others_slow(["rotary", "relative"], "relative"))
def test_the_cache_can_be_the_carry_of_a_compiled_loop(positions):
    config = tiny_config(positions=positions, dtype="bfloat16")
    params, tokens, model = random_params(config), random_tokens(), Transformer(config)

    def step(cache, token):
        logits, cache = model.apply({"params": params}, token[:, None], cache=cache)
        return cache, logits[:, 0]

    cache, logits = quick_jit(jax.lax.scan, static_argnums=0)(step, init_cache(config, 2, LENGTH), tokens.T)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((cache.keys, cache.values))} == {"bfloat16"}
    np.testing.assert_allclose(logits.transpose(1, 0, 2), jitted(config)(params, tokens), atol=0.2)
