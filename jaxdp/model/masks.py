"""Attention masks: causality, sliding windows, packing (segment ids) and padding. The model builds every mask here."""

import flax.struct
import jax
import jax.numpy as jnp

PADDING_SEGMENT = -1
"""Segment of masked keys, which no query has."""


@flax.struct.dataclass
class AttentionMask:
    """Keys that each query may attend to, as the parts from which each attention backend makes its own form.

    Attributes:
        segment_ids: Segment of each query, `[batch, query_length] int32`; None: all queries and keys share one.
        key_segment_ids: Segment of each key, `[batch, key_length] int32`, together with `segment_ids`.
        allowed: True where attention is allowed, `[batch, key_length] bool`, or `[batch, query_length, key_length] bool`
            for a mask per query; None: everywhere.
        offset: Index of the first query among the keys, `[] int32`.
        causal: Whether keys after the query are masked.
        window: Keys this number of tokens or more before or after the query are masked; 0: no window.
        token_positions: Positions of queries and keys by which the window counts,
            `([1, query_length] int32, [1, key_length] int32)`; None: it counts by their indices. Slots of a cache need
            not be in the order of their tokens: those of several hypotheses of beam search alternate.
        has_window: False where the window does not apply, `[] bool`; None: it applies.
    """

    segment_ids: jax.Array | None
    key_segment_ids: jax.Array | None
    allowed: jax.Array | None
    offset: jax.Array | int
    causal: bool = flax.struct.field(pytree_node=False)
    window: int = flax.struct.field(pytree_node=False)
    token_positions: tuple[jax.Array, jax.Array] | None = None
    has_window: jax.Array | None = None

    @property
    def has_arrays(self) -> bool:
        """True if the mask depends on more than the indices of query and key."""
        return self.segment_ids is not None or self.allowed is not None

    @property
    def is_per_query(self) -> bool:
        """True if `allowed` differs between queries."""
        return self.allowed is not None and self.allowed.ndim == 3

    def table(self, query_length: int, key_length: int) -> jax.Array | None:
        """Returns the combined mask, `[batch or 1, 1, query_length or 1, key_length] bool`, or None if all is allowed."""
        parts = [self._near(query_length, key_length)]
        if self.segment_ids is not None:
            assert self.key_segment_ids is not None, "comes together with `segment_ids`"
            parts.append((self.segment_ids[:, :, None] == self.key_segment_ids[:, None, :])[:, None])
        if self.allowed is not None:
            parts.append((self.allowed if self.is_per_query else self.allowed[:, None])[:, None])
        combined = None
        for part in parts:
            combined = part if combined is None else combined if part is None else combined & part
        return combined

    def _near(self, query_length: int, key_length: int) -> jax.Array | None:
        """Returns the part of causality and window, `[1, 1, query_length, key_length] bool`, or None if there is neither."""
        if not self.causal and not self.window:
            return None
        queries = jnp.arange(query_length)[:, None] + self.offset
        keys = jnp.arange(key_length)[None, :]
        near = keys <= queries if self.causal else None
        if self.window:
            if self.token_positions is not None:
                queries, keys = self.token_positions[0][0][:, None], self.token_positions[1]
            inside = keys > queries - self.window
            if not self.causal:
                inside = inside & (keys < queries + self.window)
            if self.has_window is not None:
                inside = inside | ~self.has_window
            near = inside if near is None else near & inside
        assert near is not None, "a mask without causality has a window"
        return near[None, None]

    def segments(self, batch: int, query_length: int, key_length: int) -> tuple[jax.Array, jax.Array] | None:
        """Returns segments of queries and keys that express packing and padding: a query attends to its own segment.

        Returns:
            `[batch, query_length] int32` and `[batch, key_length] int32`; None if neither packing nor padding masks
            anything. Masked keys have `PADDING_SEGMENT`. Not for a mask per query.
        """
        assert not self.is_per_query, "a mask per query is not a matter of segments"
        if not self.has_arrays:
            return None
        queries, keys = self.segment_ids, self.key_segment_ids
        if queries is None or keys is None:
            queries, keys = jnp.zeros((batch, query_length), jnp.int32), jnp.zeros((batch, key_length), jnp.int32)
        return queries, keys if self.allowed is None else jnp.where(self.allowed, keys, PADDING_SEGMENT)


def make_mask(
    *,
    causal: bool,
    window: int = 0,
    offset: jax.Array | int = 0,
    segment_ids: jax.Array | None = None,
    key_segment_ids: jax.Array | None = None,
    attention_mask: jax.Array | None = None,
    token_positions: tuple[jax.Array, jax.Array] | None = None,
) -> AttentionMask:
    """Combines causality, window, packing and padding into one mask.

    Args:
        causal: Whether to mask keys after the query.
        window: Keys this number of tokens or more before or after the query are masked; 0: no window.
        offset: Index of the first query among the keys.
        segment_ids: Segment of each query, `[batch, query_length] int32`; a token attends
            only to its own segment.
        key_segment_ids: Segment of each key, `[batch, key_length] int32`; None:
            `segment_ids`, as in self-attention.
        attention_mask: True where attention is allowed, `[batch, key_length] bool`, or
            `[batch, query_length, key_length] bool` for a mask per query.
        token_positions: Positions by which the window counts, as in `AttentionMask`.

    Returns:
        Attention mask. The output of a query without any allowed key is finite but meaningless.
    """
    if segment_ids is not None and key_segment_ids is None:
        key_segment_ids = segment_ids
    return AttentionMask(
        segment_ids,
        key_segment_ids,
        attention_mask,
        offset,
        causal=causal,
        window=window,
        token_positions=token_positions,
    )
