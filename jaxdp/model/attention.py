"""Multi-head attention and grouped-query attention: projections, rotary positions and KV cache around a backend."""

import functools
import math
from typing import TypeVar

import flax.linen as nn
import jax

from jaxdp.model.attention_backends.plain import reference_attention
from jaxdp.model.attention_backends.registry import backend_for
from jaxdp.model.cache import CrossAttentionCache, KVCache
from jaxdp.model.config import TransformerConfig
from jaxdp.model.dropout import dropout
from jaxdp.model.layers import Dense, Norm
from jaxdp.model.masks import AttentionMask
from jaxdp.model.rotary import RotaryTables, apply_rotary

Cache = TypeVar("Cache", KVCache, CrossAttentionCache)


class Attention(nn.Module):
    """Multi-head self-attention or cross-attention, with projections, rotary positions and KV cache."""

    config: TransformerConfig
    branch_stddev: float  # standard deviation of the initial output projection
    site: str  # dropout site

    def setup(self):
        config = self.config
        dense = functools.partial(
            Dense, config.embed_dim, use_bias=config.qkv_bias, dtype=config.dtype, platform=config.platform
        )
        query_dim, kv_dim = (heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads))
        # Initial scores do not depend on their factor. Source: Raffel et al. 2020 (T5), released code.
        query_stddev = config.init_stddev * (1 / math.sqrt(config.head_dim) / config.attention_scale)
        query_lora, key_lora, value_lora, out_lora = (
            config.lora(f"{self.site}/{name}") for name in ("query", "key", "value", "out")
        )
        self.query = dense(query_dim, stddev=query_stddev, lora=query_lora)
        self.key = dense(kv_dim, stddev=config.init_stddev, lora=key_lora)
        self.value = dense(kv_dim, stddev=config.init_stddev, lora=value_lora)
        self.out = Dense(
            query_dim, config.embed_dim, config.use_bias, config.dtype, config.platform, self.branch_stddev, out_lora
        )
        if config.qk_norm:
            norm = functools.partial(Norm, "rmsnorm", config.norm_epsilon, False, config.dtype, config.norm_offset)
            self.query_norm, self.key_norm = norm(), norm()

    def __call__(
        self,
        query_inputs: jax.Array,
        key_inputs: jax.Array | None,
        *,
        mask: AttentionMask,
        layer: jax.Array | int,
        dropout_layer: jax.Array | int,
        rotary: RotaryTables | None = None,
        bias: jax.Array | None = None,
        value_embeddings: jax.Array | None = None,
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
            value_embeddings: Added to the values, `[batch, key_length, num_kv_heads * head_dim]`, or None.
            row_keys: Typed PRNG key of each sequence for dropout, `[batch]`, or None.
            cache: Cache to write new keys and values to and to attend to, or None.

        Returns:
            Outputs `[batch, query_length, embed_dim]`, and the updated cache.
        """
        config = self.config
        # A single product with the concatenated kernels was not faster on XLA:CPU.
        query = self._positioned(self._heads(self.query(query_inputs)), "query_norm", rotary)
        key = value = None
        if key_inputs is not None:
            key = self._positioned(self._heads(self.key(key_inputs)), "key_norm", rotary)
            value = self.value(key_inputs)
            value = self._heads(value if value_embeddings is None else value + value_embeddings)
        # With heads before length, XLA:CPU is twice as fast.
        query = query.transpose(0, 2, 1, 3)
        if key is not None and value is not None:
            key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)
            cache = None if cache is None else cache.update(layer, key, value)
        if cache is not None:
            key, value = cache.layer(layer)
        assert key is not None and value is not None, "without a cache there are key inputs"
        # Decoding reads a cache of another length than its few queries. Initialisation needs only shapes, and must run
        # on any platform.
        backend = None if cache is not None or self.is_initializing() else backend_for(config, mask)
        scores = {"scale": config.attention_scale, "softcap": config.attention_logit_softcap}
        if backend is not None:
            outputs = backend.attend(query, key, value, mask, **scores)
        else:
            drop = functools.partial(
                dropout, row_keys=row_keys, rate=config.attention_dropout_rate, layer=dropout_layer, site=self.site
            )
            outputs = reference_attention(
                query, key, value, mask, platform=config.platform, **scores, bias=bias, drop=drop
            )
        outputs = outputs.transpose(0, 2, 1, 3)
        return self.out(outputs.reshape(*outputs.shape[:2], -1)), cache

    def _heads(self, features: jax.Array) -> jax.Array:
        """Splits `[batch, length, heads * head_dim]` into heads, `[batch, length, heads, head_dim]`."""
        return features.reshape(*features.shape[:2], -1, self.config.head_dim)

    def _positioned(self, heads: jax.Array, norm: str, rotary) -> jax.Array:
        """Normalises the heads of queries or keys and applies rotary positions, if the model has these."""
        if self.config.qk_norm:
            heads = getattr(self, norm)(heads)
        return heads if rotary is None else apply_rotary(heads, rotary)
