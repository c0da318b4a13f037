"""Who may attend to whom: every attention mask of the model is made here."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class AttentionMask:
    """The keys that each query may attend to: causality and a table, kept apart.

    Attention kernels know causality without a table, and skip what it hides.

    Attributes:
        allowed: `[batch, 1, query_length or 1, key_length] bool`, True = attend;
            None: all keys, but for causality.
        offset: Index among the keys of the first query, `int32` scalar.
        causal: Whether keys after the query's own index are hidden.
    """

    allowed: jax.Array | None
    offset: jax.Array | int
    causal: bool = flax.struct.field(pytree_node=False)

    def table(self, query_length: int, key_length: int) -> jax.Array | None:
        """Everything in one `[batch or 1, 1, query_length or 1, key_length] bool`, or None."""
        if not self.causal:
            return self.allowed
        queries = jnp.arange(query_length)[:, None] + self.offset
        earlier = (jnp.arange(key_length)[None, :] <= queries)[None, None]
        return earlier if self.allowed is None else earlier & self.allowed


def make_mask(
    *,
    causal: bool,
    offset: jax.Array | int = 0,
    segment_ids: jax.Array | None = None,
    key_segment_ids: jax.Array | None = None,
    attention_mask: jax.Array | None = None,
) -> AttentionMask:
    """Combine causality, packing and padding.

    Args:
        causal: Hide keys after the query.
        offset: Index among the keys of the first query.
        segment_ids: `[batch, query_length] int32`; a token attends within its own id.
        key_segment_ids: `[batch, key_length] int32`; None: the same ids, in self-attention.
        attention_mask: `[batch, key_length] bool`, True = attend to that key; or
            `[batch, query_length, key_length] bool`, for each query by itself.

    Returns:
        The mask; a query that may attend to nothing gets finite, meaningless output.
    """
    allowed = None
    if segment_ids is not None:
        if key_segment_ids is None:
            key_segment_ids = segment_ids
        allowed = (segment_ids[:, :, None] == key_segment_ids[:, None, :])[:, None]
    if attention_mask is not None:
        each = attention_mask if attention_mask.ndim == 3 else attention_mask[:, None]
        keys = each[:, None]
        allowed = keys if allowed is None else allowed & keys
    return AttentionMask(allowed=allowed, offset=offset, causal=causal)
