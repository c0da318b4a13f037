"""Multi-head attention and grouped-query attention, with a reference and a fused implementation.

Axes: b batch, q query length, k key length, h query heads, g key/value heads
(h is a multiple of g), d head_dim.
"""

import functools
import math
from typing import Literal, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdp.errors import UserError
from jaxdp.model.cache import CrossAttentionCache, KVCache
from jaxdp.model.config import TransformerConfig, cudnn_obstacle
from jaxdp.model.dropout import dropout
from jaxdp.model.layers import Dense, matmul_float32
from jaxdp.model.masks import AttentionMask
from jaxdp.model.positions import apply_rotary

Cache = TypeVar("Cache", KVCache, CrossAttentionCache)


def reference_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    *,
    bias: jax.Array | None = None,
    drop=lambda weights: weights,
) -> jax.Array:
    """Computes scaled dot-product attention from matrix products; runs on every platform and supports dropout.

    Source: Vaswani et al. 2017, section 3.2.1; grouped queries: Ainslie et al. 2023.

    Args:
        query: Queries, `[b, h, q, d]`.
        key: Keys, `[b, g, k, d]`.
        value: Values, `[b, g, k, d]`.
        mask: Attention mask.
        bias: Bias added to the scores, `[b or 1, h, q, k] float32`.
        drop: Function applied to the attention probabilities `[b, h, q, k]`, e.g. dropout.

    Returns:
        Attention outputs, `[b, h, q, d]`.
    """
    batch, heads, query_length, head_dim = query.shape
    groups, key_length = key.shape[1:3]
    # Query heads that share a key head are computed as additional queries of that head.
    grouped = query.reshape(batch, groups, -1, head_dim)
    scores = matmul_float32(grouped, key).reshape(batch, heads, query_length, key_length)
    scores = scores * (1 / math.sqrt(head_dim))
    if bias is not None:
        scores = scores + bias
    allowed = mask.table(query_length, key_length)
    if allowed is not None:
        scores = jnp.where(allowed, scores, jnp.finfo(jnp.float32).min)
    probabilities = drop(jax.nn.softmax(scores, axis=-1).astype(value.dtype))
    outputs = jnp.matmul(probabilities.reshape(batch, groups, -1, key_length), value)
    return outputs.reshape(query.shape)


def fused_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    implementation: Literal["xla", "cudnn"] = "cudnn",
) -> jax.Array:
    """Computes scaled dot-product attention with a fused kernel, which never stores the scores.

    Args:
        query: Queries, `[b, q, h, d]`.
        key: Keys, `[b, k, g, d]`.
        value: Values, `[b, k, g, d]`.
        mask: Attention mask with offset 0.
        implementation: Kernel, as in `jax.nn.dot_product_attention`.

    Returns:
        Attention outputs, `[b, q, h, d]`.
    """
    allowed = mask.allowed
    if allowed is not None:
        batch, _, _, key_length = allowed.shape
        allowed = jnp.broadcast_to(allowed, (batch, 1, query.shape[1], key_length))
    return jax.nn.dot_product_attention(
        query, key, value, mask=allowed, is_causal=mask.causal, implementation=implementation
    )


def uses_cudnn(config: TransformerConfig, cached: bool) -> bool:
    """Returns whether this forward pass uses cuDNN attention.

    Args:
        config: Model configuration; `attention="auto"` uses cuDNN where it is supported.
        cached: Whether the forward pass reads a KV cache.

    Raises:
        UserError: `attention="cudnn"` is not supported on this platform or with a KV cache.
    """
    on_gpu = config.platform == "gpu"
    if config.attention == "auto":
        return on_gpu and not cached and cudnn_obstacle(config) is None
    if config.attention == "cudnn" and not on_gpu:
        raise UserError(
            f"model.attention = cudnn needs a GPU, but the devices of this run are "
            f"{config.platform}; set model.attention = auto."
        )
    if config.attention == "cudnn" and cached:
        raise UserError("model.attention = cudnn cannot read a KV cache; set model.attention = auto to generate.")
    return config.attention == "cudnn"


class Attention(nn.Module):
    """Multi-head self-attention or cross-attention, with projections, rotary positions and KV cache."""

    config: TransformerConfig
    branch_stddev: float  # standard deviation of the initial output projection
    site: str  # dropout site

    def setup(self):
        config = self.config
        dense = functools.partial(Dense, use_bias=config.use_bias, dtype=config.dtype)
        kv_dim = config.num_kv_heads * config.head_dim
        self.query = dense(config.embed_dim, config.embed_dim, stddev=config.init_stddev)
        self.key = dense(config.embed_dim, kv_dim, stddev=config.init_stddev)
        self.value = dense(config.embed_dim, kv_dim, stddev=config.init_stddev)
        self.out = dense(config.embed_dim, config.embed_dim, stddev=self.branch_stddev)

    def __call__(
        self,
        query_inputs: jax.Array,
        key_inputs: jax.Array | None,
        *,
        mask: AttentionMask,
        layer: jax.Array | int,
        dropout_layer: jax.Array | int,
        rotary: tuple[jax.Array, jax.Array] | None = None,
        bias: jax.Array | None = None,
        row_keys: jax.Array | None = None,
        cache: Cache | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Attends from `query_inputs` to `key_inputs`, or to the cached keys and values.

        Args:
            query_inputs: Inputs of the queries, `[batch, query_length, embed_dim]`.
            key_inputs: Inputs of keys and values, `[batch, key_length, embed_dim]`, equal to
                `query_inputs` in self-attention; None: the cache already holds the keys and values.
            mask: Attention mask.
            layer: Index of the layer in its stack, for the cache.
            dropout_layer: Index of the layer counted over all stacks, for dropout.
            rotary: Tables of `rotary_tables`, or None.
            bias: Bias added to the scores,
                `[batch or 1, num_heads, query_length, key_length] float32`, or None.
            row_keys: Typed PRNG key of each sequence for dropout, `[batch]`, or None.
            cache: Cache to write new keys and values to and to attend to, or None.

        Returns:
            Outputs `[batch, query_length, embed_dim]`, and the updated cache.
        """
        config = self.config
        # A single product with the concatenated kernels was not faster on XLA:CPU.
        query = self._heads(self.query(query_inputs), rotary)
        key = value = None
        if key_inputs is not None:
            key = self._heads(self.key(key_inputs), rotary)
            value = self._heads(self.value(key_inputs))
        # Initialisation needs only shapes, and must run on any platform.
        if not self.is_initializing() and uses_cudnn(config, cache is not None):
            assert key is not None and value is not None, "without a cache there are key inputs"
            outputs = fused_attention(query, key, value, mask)
        else:
            # With heads before length, XLA:CPU is twice as fast.
            query = query.transpose(0, 2, 1, 3)
            if key is not None and value is not None:
                key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
                cache = None if cache is None else cache.update(layer, key, value)
            if cache is not None:
                key, value = cache.layer(layer)
            assert key is not None and value is not None, "without a cache there are key inputs"
            drop = functools.partial(
                dropout, row_keys=row_keys, rate=config.dropout_rate, layer=dropout_layer, site=self.site
            )
            outputs = reference_attention(query, key, value, mask, bias=bias, drop=drop)
            outputs = outputs.transpose(0, 2, 1, 3)
        return self.out(outputs.reshape(query_inputs.shape)), cache

    def _heads(self, features: jax.Array, rotary=None) -> jax.Array:
        """Splits `[batch, length, heads * head_dim]` into heads and applies rotary positions, if any."""
        heads = features.reshape(*features.shape[:2], -1, self.config.head_dim)
        return heads if rotary is None else apply_rotary(heads, rotary)
