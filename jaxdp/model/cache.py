"""Keys and values of the tokens seen so far, so that decoding does not recompute them."""

import flax.struct
import jax
import jax.numpy as jnp

from jaxdp.model.config import TransformerConfig

Layers = jax.Array | tuple[jax.Array, ...]
"""One array for each layer; scanned layers have one for all, with the layer as axis 0.

A compiled decode loop updates both in place. But of one array for all, XLA:CPU copies
a layer out before it is read, which is what decoding then waits for.
"""


@flax.struct.dataclass
class SourceCache:
    """What the decoder of an encoder-decoder remembers of the source: written once, then read.

    Attributes:
        keys: Of each layer, `[batch, num_kv_heads, head_dim, source_length]` in the
            compute dtype.
        values: Of each layer, `[batch, num_kv_heads, source_length, head_dim]`.
        mask: `[batch, source_length] bool`, False on padding.
    """

    keys: Layers
    values: Layers
    mask: jax.Array

    def update(self, layer, keys: jax.Array, values: jax.Array) -> "SourceCache":
        """Write `[batch, num_kv_heads, source_length, head_dim]` of one layer."""
        return self.replace(
            keys=_written(self.keys, layer, keys.swapaxes(2, 3), (0, 0, 0, 0)),
            values=_written(self.values, layer, values, (0, 0, 0, 0)),
        )

    def layer(self, layer) -> tuple[jax.Array, jax.Array]:
        """Keys and values of one layer, each `[batch, num_kv_heads, source_length, head_dim]`."""
        return _read(self.keys, layer).swapaxes(2, 3), _read(self.values, layer)


@flax.struct.dataclass
class KVCache:
    """The memory of one batch of sequences, all layers together.

    Keys have their slots last, as the product with a few queries wants them: three
    times faster on XLA:CPU with four.

    Attributes:
        keys: Of each layer, `[batch, num_kv_heads, head_dim, slots]` in the compute
            dtype, rotary positions applied.
        values: Of each layer, `[batch, num_kv_heads, slots, head_dim]`.
        index: Slots filled so far, `int32` scalar. The caller keeps it within
            `slots`; beyond, new tokens would overwrite the last slots.
        positions: `[1, slots] int32`, of the tokens in the slots; relative positions
            need them, with others it is None. Only distances count, which all rows
            share: they may be shifted against each other (padding on the left), not more.
        source: Of an encoder-decoder, once the source is encoded; else None.
    """

    keys: Layers
    values: Layers
    index: jax.Array
    positions: jax.Array | None = None
    source: SourceCache | None = None

    @property
    def slots(self) -> int:
        """Tokens the cache has room for."""
        return jax.tree.leaves(self.keys)[0].shape[-1]

    def update(self, layer, keys: jax.Array, values: jax.Array) -> "KVCache":
        """Write `[batch, num_kv_heads, length, head_dim]` of one layer at `index`, which stays."""
        return self.replace(
            keys=_written(self.keys, layer, keys.swapaxes(2, 3), (0, 0, 0, self.index)),
            values=_written(self.values, layer, values, (0, 0, self.index, 0)),
        )

    def layer(self, layer) -> tuple[jax.Array, jax.Array]:
        """Keys and values of one layer, each `[batch, num_kv_heads, slots, head_dim]`."""
        return _read(self.keys, layer).swapaxes(2, 3), _read(self.values, layer)

    def place(self, positions: jax.Array) -> "KVCache":
        """Note the positions `[1, length] int32` of the tokens written next."""
        return self.replace(
            positions=jax.lax.dynamic_update_slice(self.positions, positions, (0, self.index))
        )


def _written(stored: Layers, layer, values: jax.Array, start: tuple) -> Layers:
    """`values` written into one layer from `start` on."""
    if not isinstance(stored, tuple):
        return jax.lax.dynamic_update_slice(stored, values[None], (layer, *start))
    written = jax.lax.dynamic_update_slice(stored[layer], values, start)
    return (*stored[:layer], written, *stored[layer + 1 :])


def _read(stored: Layers, layer) -> jax.Array:
    if isinstance(stored, tuple):
        return stored[layer]
    return jax.lax.dynamic_index_in_dim(stored, layer, keepdims=False)


def _empty(config: TransformerConfig, shape: tuple[int, ...]) -> Layers:
    """Zeros of this shape for every layer of the decoder."""
    num_layers = config.decoder.num_layers
    if config.scan_layers:
        return jnp.zeros((num_layers, *shape), config.dtype)
    return tuple(jnp.zeros(shape, config.dtype) for _ in range(num_layers))


def init_cache(config: TransformerConfig, batch: int, slots: int) -> KVCache:
    """An empty cache for `batch` sequences of at most `slots` tokens."""
    heads = (batch, config.num_kv_heads)
    return KVCache(
        keys=_empty(config, (*heads, config.head_dim, slots)),
        values=_empty(config, (*heads, slots, config.head_dim)),
        index=jnp.zeros((), jnp.int32),
        positions=jnp.zeros((1, slots), jnp.int32) if config.positions == "relative" else None,
    )


def init_source_cache(config: TransformerConfig, mask: jax.Array) -> SourceCache:
    """An empty memory of the sources whose valid tokens `mask` `[batch, source_length] bool` marks."""
    batch, length = mask.shape
    heads = (batch, config.num_kv_heads)
    return SourceCache(
        keys=_empty(config, (*heads, config.head_dim, length)),
        values=_empty(config, (*heads, length, config.head_dim)),
        mask=mask,
    )
