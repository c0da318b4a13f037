"""Keys and values of the tokens seen so far, so that decoding does not recompute them."""

import flax.struct
import jax
import jax.numpy as jnp

from jaxdp.model.config import TransformerConfig


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
    """

    keys: jax.Array
    values: jax.Array
    index: jax.Array

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
        return (
            jax.lax.dynamic_index_in_dim(self.keys, layer, keepdims=False),
            jax.lax.dynamic_index_in_dim(self.values, layer, keepdims=False),
        )


def init_cache(config: TransformerConfig, batch: int, slots: int) -> KVCache:
    """An empty cache for `batch` sequences of at most `slots` tokens."""
    shape = (config.num_layers, batch, config.num_kv_heads, slots, config.head_dim)
    return KVCache(
        keys=jnp.zeros(shape, config.dtype),
        values=jnp.zeros(shape, config.dtype),
        index=jnp.zeros((), jnp.int32),
    )
