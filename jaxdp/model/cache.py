"""KV cache for incremental decoding, with a cross-attention cache for encoder-decoders."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from jaxdp.model.config import TransformerConfig

Layers = jax.Array | tuple[jax.Array, ...]
"""One array per layer; scanned layers share one array with the layer as axis 0.

A compiled decode loop updates both forms in place. From a shared array, however, XLA:CPU
copies each layer before reading it, which dominates the time of decoding.
"""


@flax.struct.dataclass
class CrossAttentionCache:
    """Keys and values of the encoder output: set once, then read at every step.

    Attributes:
        keys: Keys of each layer, `[batch, num_kv_heads, head_dim, source_length]` in the
            compute dtype.
        values: Values of each layer, `[batch, num_kv_heads, source_length, head_dim]`.
        mask: True at valid source tokens, `[batch, source_length] bool`.
    """

    keys: Layers
    values: Layers
    mask: jax.Array

    def update(self, layer, keys: jax.Array, values: jax.Array) -> "CrossAttentionCache":
        """Stores keys and values `[batch, num_kv_heads, source_length, head_dim]` of one layer."""
        return dataclasses.replace(
            self,
            keys=_store(self.keys, layer, keys.swapaxes(2, 3), (0, 0, 0, 0)),
            values=_store(self.values, layer, values, (0, 0, 0, 0)),
        )

    def layer(self, layer) -> tuple[jax.Array, jax.Array]:
        """Returns keys and values of one layer, each `[batch, num_kv_heads, source_length, head_dim]`."""
        return _read(self.keys, layer).swapaxes(2, 3), _read(self.values, layer)


@flax.struct.dataclass
class KVCache:
    """KV cache of one batch of sequences, for all layers.

    The slots are the last axis of the keys, which makes the product with four queries
    three times faster on XLA:CPU.

    Attributes:
        keys: Keys of each layer after rotary positions,
            `[batch, num_kv_heads, head_dim, slots]` in the compute dtype.
        values: Values of each layer, `[batch, num_kv_heads, slots, head_dim]`.
        index: Number of filled slots, `[] int32`. The caller keeps it within `slots`;
            beyond that, new tokens would overwrite the last slots.
        positions: Positions of the tokens in the slots, `[1, slots] int32`; None unless
            positions are relative or attention has a window. Only distances matter, and all sequences must share
            them: sequences may be shifted against each other by left padding only.
        cross_attention: Cache of the encoder output in an encoder-decoder; None in a
            decoder and before the source is encoded.
    """

    keys: Layers
    values: Layers
    index: jax.Array
    positions: jax.Array | None = None
    cross_attention: CrossAttentionCache | None = None

    @property
    def slots(self) -> int:
        """Capacity of the cache in tokens."""
        return jax.tree.leaves(self.keys)[0].shape[-1]

    def update(self, layer, keys: jax.Array, values: jax.Array) -> "KVCache":
        """Stores keys and values `[batch, num_kv_heads, length, head_dim]` of one layer at `index`, which is unchanged."""
        return dataclasses.replace(
            self,
            keys=_store(self.keys, layer, keys.swapaxes(2, 3), (0, 0, 0, self.index)),
            values=_store(self.values, layer, values, (0, 0, self.index, 0)),
        )

    def layer(self, layer) -> tuple[jax.Array, jax.Array]:
        """Returns keys and values of one layer, each `[batch, num_kv_heads, slots, head_dim]`."""
        return _read(self.keys, layer).swapaxes(2, 3), _read(self.values, layer)

    def set_positions(self, positions: jax.Array) -> tuple["KVCache", jax.Array]:
        """Stores the positions `[1, length] int32` of the next tokens at `index`; returns those of all slots too."""
        assert self.positions is not None, "the caller checks that the cache has them"
        updated = jax.lax.dynamic_update_slice(self.positions, positions, (0, self.index))
        return dataclasses.replace(self, positions=updated), updated


def _store(stored: Layers, layer, values: jax.Array, start: tuple) -> Layers:
    """Returns `stored` with `values` in one layer from `start` on."""
    if not isinstance(stored, tuple):
        return jax.lax.dynamic_update_slice(stored, values[None], (layer, *start))
    updated = jax.lax.dynamic_update_slice(stored[layer], values, start)
    return (*stored[:layer], updated, *stored[layer + 1 :])


def _read(stored: Layers, layer) -> jax.Array:
    if isinstance(stored, tuple):
        return stored[layer]
    return jax.lax.dynamic_index_in_dim(stored, layer, keepdims=False)


def _empty(config: TransformerConfig, shape: tuple[int, ...]) -> Layers:
    """Returns zeros of this shape for every layer of the decoder."""
    num_layers = config.decoder.num_layers
    if config.scan_layers:
        return jnp.zeros((num_layers, *shape), config.dtype)
    return tuple(jnp.zeros(shape, config.dtype) for _ in range(num_layers))


def init_cache(config: TransformerConfig, batch: int, slots: int) -> KVCache:
    """Returns an empty cache for `batch` sequences of at most `slots` tokens."""
    heads = (batch, config.num_kv_heads)
    has_positions = config.positions == "relative" or config.attention_window > 0
    return KVCache(
        keys=_empty(config, (*heads, config.head_dim, slots)),
        values=_empty(config, (*heads, slots, config.head_dim)),
        index=jnp.zeros((), jnp.int32),
        positions=jnp.zeros((1, slots), jnp.int32) if has_positions else None,
    )


def init_cross_attention_cache(config: TransformerConfig, mask: jax.Array) -> CrossAttentionCache:
    """Returns an empty cache for source sequences with the valid tokens `mask`, `[batch, source_length] bool`."""
    batch, length = mask.shape
    heads = (batch, config.num_kv_heads)
    return CrossAttentionCache(
        keys=_empty(config, (*heads, config.head_dim, length)),
        values=_empty(config, (*heads, length, config.head_dim)),
        mask=mask,
    )
