"""Multi-head attention.

Axes: b batch, q query length, k key length, h query heads, g key/value heads
(h is a multiple of g), d head_dim.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdp.errors import UserError
from jaxdp.model.cache import KVCache, SourceCache
from jaxdp.model.config import TransformerConfig, cudnn_obstacle
from jaxdp.model.dense import Dense, matmul_float32
from jaxdp.model.dropout import dropout
from jaxdp.model.masks import AttentionMask
from jaxdp.model.positions import rotate


def plain_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    *,
    bias: jax.Array | None = None,
    drop=lambda weights: weights,
) -> jax.Array:
    """Scaled dot-product attention, written out; runs everywhere and knows dropout.

    Source: Vaswani et al. 2017, section 3.2.1; groups: Ainslie et al. 2023.

    Args:
        query: `[b, h, q, d]`.
        key: `[b, g, k, d]`.
        value: `[b, g, k, d]`.
        mask: Who may attend to whom.
        bias: Added to the scores, `[b or 1, h, q, k] float32`.
        drop: Applied to the attention probabilities `[b, h, q, k]`.

    Returns:
        `[b, h, q, d]`.
    """
    batch, heads, query_length, head_dim = query.shape
    groups, key_length = key.shape[1:3]
    # The query heads that share a key head are further queries to it.
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


def library_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask, implementation: str = "cudnn"
) -> jax.Array:
    """Scaled dot-product attention by a kernel that never stores the scores.

    Args:
        query: `[b, q, h, d]`.
        key: `[b, k, g, d]`.
        value: `[b, k, g, d]`.
        mask: Who may attend to whom; its offset is 0.
        implementation: As in `jax.nn.dot_product_attention`.

    Returns:
        `[b, q, h, d]`.
    """
    allowed = mask.allowed
    if allowed is not None:
        batch, _, _, key_length = allowed.shape
        allowed = jnp.broadcast_to(allowed, (batch, 1, query.shape[1], key_length))
    return jax.nn.dot_product_attention(
        query, key, value, mask=allowed, is_causal=mask.causal, implementation=implementation
    )


def uses_cudnn(config: TransformerConfig, cached: bool) -> bool:
    """Whether this forward pass goes through cuDNN attention.

    Args:
        config: The model; `attention` decides, auto takes cuDNN where it applies.
        cached: Whether the pass reads a KV cache.

    Raises:
        UserError: cudnn is asked for where it cannot run.
    """
    on_gpu = jax.default_backend() == "gpu"
    if config.attention == "auto":
        return on_gpu and not cached and cudnn_obstacle(config) is None
    if config.attention == "cudnn" and not on_gpu:
        raise UserError(
            f"model.attention = cudnn needs a GPU, and this process computes on "
            f"{jax.default_backend()}; set model.attention = auto."
        )
    if config.attention == "cudnn" and cached:
        raise UserError(
            "model.attention = cudnn cannot read a KV cache; set model.attention = auto to generate."
        )
    return config.attention == "cudnn"


class Attention(nn.Module):
    """Multi-head attention from one sequence to another, or to itself."""

    config: TransformerConfig
    branch_stddev: float  # of the new kernel that joins the residual stream
    site: str  # of dropout

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
        cache: KVCache | SourceCache | None = None,
    ) -> tuple[jax.Array, KVCache | SourceCache | None]:
        """Attend from `query_inputs` to `key_inputs`, or to what is cached of them.

        Args:
            query_inputs: `[batch, query_length, embed_dim]`.
            key_inputs: `[batch, key_length, embed_dim]`; the same array in self-attention;
                None: the cache holds their keys and values already.
            mask: Who may attend to whom.
            layer: Index of the layer in its stack, for the cache.
            dropout_layer: Number of the layer in the count over all stacks.
            rotary: Tables to turn queries and keys by.
            bias: Added to the scores, `[batch or 1, num_heads, query_length, key_length] float32`.
            row_keys: `[batch]` typed PRNG keys of dropout, or None.
            cache: Keys and values to write to and attend to instead, or None.

        Returns:
            `[batch, query_length, embed_dim]`, and the cache with this layer's slots written.
        """
        config = self.config
        # One product with the three kernels side by side was no faster (XLA:CPU).
        query = self._heads(self.query(query_inputs), rotary)
        key = value = None
        if key_inputs is not None:
            key = self._heads(self.key(key_inputs), rotary)
            value = self._heads(self.value(key_inputs))
        # Initialising runs on any machine and any row: it needs shapes, not speed.
        if not self.is_initializing() and uses_cudnn(config, cache is not None):
            outputs = library_attention(query, key, value, mask)
        else:
            # Heads before length: twice as fast on XLA:CPU.
            query, key, value = (
                part if part is None else part.transpose(0, 2, 1, 3) for part in (query, key, value)
            )
            if cache is not None:
                cache = cache if key is None else cache.update(layer, key, value)
                key, value = cache.layer(layer)
            drop = functools.partial(
                dropout, row_keys=row_keys, rate=config.dropout_rate, layer=dropout_layer, site=self.site
            )
            outputs = plain_attention(query, key, value, mask, bias=bias, drop=drop)
            outputs = outputs.transpose(0, 2, 1, 3)
        return self.out(outputs.reshape(query_inputs.shape)), cache

    def _heads(self, features: jax.Array, rotary=None) -> jax.Array:
        """`[batch, length, heads * head_dim]` as `[batch, length, heads, head_dim]`, turned if told to."""
        heads = features.reshape(*features.shape[:2], -1, self.config.head_dim)
        return heads if rotary is None else rotate(heads, rotary)
