"""Keys and values of the tokens seen so far, so that decoding does not recompute them."""

import flax.struct
import jax
import jax.numpy as jnp

from jaxdp.model.config import TransformerConfig


@flax.struct.dataclass
class SourceCache:
    """What the decoder of an encoder-decoder remembers of the source: written once, then read.

    Attributes:
        keys: `[num_decoder_layers, batch, num_kv_heads, source_length, head_dim]` in
            the compute dtype.
        values: The same shape.
        mask: `[batch, source_length] bool`, False on padding.
    """

    keys: jax.Array
    values: jax.Array
    mask: jax.Array

    def update(self, layer, keys: jax.Array, values: jax.Array) -> "SourceCache":
        """Write `[batch, num_kv_heads, source_length, head_dim]` of one layer."""
        start = (layer, 0, 0, 0, 0)
        return self.replace(
            keys=jax.lax.dynamic_update_slice(self.keys, keys[None], start),
            values=jax.lax.dynamic_update_slice(self.values, values[None], start),
        )

    def layer(self, layer) -> tuple[jax.Array, jax.Array]:
        """Keys and values of one layer, each `[batch, num_kv_heads, source_length, head_dim]`."""
        return _of_layer(self.keys, layer), _of_layer(self.values, layer)


@flax.struct.dataclass
class KVCache:
    """The memory of one batch of sequences, all layers together.

    One array for all layers lets a compiled decode loop update it in place.

    Attributes:
        keys: `[num_layers, batch, num_kv_heads, slots, head_dim]` in the compute
            dtype, rotary positions applied.
        values: The same shape.
        index: Slots filled so far, `int32` scalar. The caller keeps it within
            `slots`; beyond, new tokens would overwrite the last slots.
        positions: `[batch, slots] int32`, of the tokens in the slots; relative
            positions need them, with others it is None.
        source: Of an encoder-decoder, once the source is encoded; else None.
    """

    keys: jax.Array
    values: jax.Array
    index: jax.Array
    positions: jax.Array | None = None
    source: SourceCache | None = None

    @property
    def slots(self) -> int:
        """Tokens the cache has room for."""
        return self.keys.shape[3]

    def update(self, layer, keys: jax.Array, values: jax.Array) -> "KVCache":
        """Write `[batch, num_kv_heads, length, head_dim]` of one layer at `index`, which stays."""
        start = (layer, 0, 0, self.index, 0)
        return self.replace(
            keys=jax.lax.dynamic_update_slice(self.keys, keys[None], start),
            values=jax.lax.dynamic_update_slice(self.values, values[None], start),
        )

    def layer(self, layer) -> tuple[jax.Array, jax.Array]:
        """Keys and values of one layer, each `[batch, num_kv_heads, slots, head_dim]`."""
        return _of_layer(self.keys, layer), _of_layer(self.values, layer)

    def place(self, positions: jax.Array) -> "KVCache":
        """Note the positions `[batch or 1, length] int32` of the tokens written next."""
        if self.positions is None:
            return self
        rows = jnp.broadcast_to(positions, (self.positions.shape[0], positions.shape[1]))
        return self.replace(
            positions=jax.lax.dynamic_update_slice(self.positions, rows, (0, self.index))
        )


def _of_layer(stacked: jax.Array, layer) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(stacked, layer, keepdims=False)


def init_cache(config: TransformerConfig, batch: int, slots: int) -> KVCache:
    """An empty cache for `batch` sequences of at most `slots` tokens."""
    shape = (config.decoder.num_layers, batch, config.num_kv_heads, slots, config.head_dim)
    return KVCache(
        keys=jnp.zeros(shape, config.dtype),
        values=jnp.zeros(shape, config.dtype),
        index=jnp.zeros((), jnp.int32),
        positions=jnp.zeros((batch, slots), jnp.int32) if config.positions == "relative" else None,
    )


def init_source_cache(config: TransformerConfig, mask: jax.Array) -> SourceCache:
    """An empty memory of the sources whose valid tokens `mask` `[batch, source_length] bool` marks."""
    batch, length = mask.shape
    shape = (config.decoder.num_layers, batch, config.num_kv_heads, length, config.head_dim)
    return SourceCache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype), mask)
