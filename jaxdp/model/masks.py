"""Attention masks: causality, packing (segment ids) and padding. The model builds every mask here."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class AttentionMask:
    """Keys that each query may attend to: a causal flag and a boolean table, kept separate.

    Fused attention kernels take causality as a flag and skip the masked blocks.

    Attributes:
        allowed: True where attention is allowed, `[batch, 1, query_length or 1, key_length] bool`;
            None: all keys, subject to causality.
        offset: Index of the first query among the keys, `[] int32`.
        causal: Whether keys after the query are masked.
    """

    allowed: jax.Array | None
    offset: jax.Array | int
    causal: bool = flax.struct.field(pytree_node=False)

    def table(self, query_length: int, key_length: int) -> jax.Array | None:
        """Returns the combined mask, `[batch or 1, 1, query_length or 1, key_length] bool`, or None if all is allowed."""
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
    """Combines causality, packing and padding into one mask.

    Args:
        causal: Whether to mask keys after the query.
        offset: Index of the first query among the keys.
        segment_ids: Segment of each query, `[batch, query_length] int32`; a token attends
            only to its own segment.
        key_segment_ids: Segment of each key, `[batch, key_length] int32`; None:
            `segment_ids`, as in self-attention.
        attention_mask: True where attention is allowed, `[batch, key_length] bool`, or
            `[batch, query_length, key_length] bool` for a mask per query.

    Returns:
        Attention mask. The output of a query without any allowed key is finite but meaningless.
    """
    allowed = None
    if segment_ids is not None:
        if key_segment_ids is None:
            key_segment_ids = segment_ids
        allowed = (segment_ids[:, :, None] == key_segment_ids[:, None, :])[:, None]
    if attention_mask is not None:
        per_query = attention_mask if attention_mask.ndim == 3 else attention_mask[:, None]
        keys = per_query[:, None]
        allowed = keys if allowed is None else allowed & keys
    return AttentionMask(allowed=allowed, offset=offset, causal=causal)
