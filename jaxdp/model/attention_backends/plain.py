"""Reference attention from matrix products, for every platform, KV caches, dropout and relative positions."""

import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxdp.model.layers import bounded
from jaxdp.model.masks import AttentionMask
from jaxdp.model.products import matmul, matmul_float32

ATTENTION_OUTPUTS = "attention_outputs"
"""Name under which `model.remat` saves what attention returns and its backward pass needs."""


def reference_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    *,
    platform: str,
    scale: float | None = None,
    softcap: float = 0.0,
    bias: jax.Array | None = None,
    drop=lambda weights: weights,
) -> jax.Array:
    """Computes scaled dot-product attention from matrix products.

    Axes: b batch, q query length, k key length, h query heads, g key/value heads (h is a multiple of g), d head_dim.

    Source: Vaswani et al. 2017, section 3.2.1; grouped queries: Ainslie et al. 2023; soft-capping: Gemma Team 2024
    (Gemma 2), section 2.

    Args:
        query: Queries, `[b, h, q, d]`.
        key: Keys, `[b, g, k, d]`.
        value: Values, `[b, g, k, d]`.
        mask: Attention mask.
        platform: Platform of the devices.
        scale: Factor of the scores; None: `1 / sqrt(d)`.
        softcap: Bound of the scores, `softcap * tanh(scores / softcap)`, before bias and mask; 0: no bound.
        bias: Bias added to the scores, `[b or 1, h, q, k] float32`.
        drop: Function applied to the attention probabilities `[b, h, q, k]`, e.g. dropout.

    Returns:
        Attention outputs, `[b, h, q, d]`.
    """
    batch, heads, query_length, head_dim = query.shape
    groups, key_length = key.shape[1:3]
    # Query heads that share a key head are computed as additional queries of that head.
    grouped = query.reshape(batch, groups, -1, head_dim)
    scores = matmul_float32(grouped, key, platform).reshape(batch, heads, query_length, key_length)
    scores = scores * (1 / math.sqrt(head_dim) if scale is None else scale)
    scores = bounded(scores, softcap)
    if bias is not None:
        scores = scores + bias
    allowed = mask.table(query_length, key_length)
    if allowed is not None:
        scores = jnp.where(allowed, scores, jnp.finfo(jnp.float32).min)
    probabilities = drop(jax.nn.softmax(scores, axis=-1).astype(value.dtype))
    outputs = matmul(probabilities.reshape(batch, groups, -1, key_length), value, platform)
    return checkpoint_name(outputs.reshape(query.shape), ATTENTION_OUTPUTS)
