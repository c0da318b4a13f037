"""A stack of blocks: positions are added, layers run in turn, the last is normalised."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdp.errors import UserError
from jaxdp.model.block import Carry, LayerInputs, block_class, make_norm, scanned_class
from jaxdp.model.cache import KVCache
from jaxdp.model.config import StackConfig, TransformerConfig
from jaxdp.model.dropout import dropout
from jaxdp.model.masks import AttentionMask, make_mask
from jaxdp.model.positions import (
    NUM_BUCKETS,
    relative_bias,
    relative_buckets,
    rotary_tables,
    sinusoidal_embedding,
)


class Stack(nn.Module):
    """From the vectors of tokens to hidden states: an encoder, or a decoder."""

    config: TransformerConfig
    stack: StackConfig

    def setup(self):
        config, stack = self.config, self.stack
        init = nn.initializers.normal(config.init_stddev)
        if config.positions == "learned":
            self.position_embedding = self.param(
                "position_embedding", init, (stack.max_length, config.embed_dim), jnp.float32
            )
        if config.positions == "relative":
            # One table for all layers, as published.
            self.relative_embedding = self.param(
                "relative_embedding", init, (NUM_BUCKETS, config.num_heads), jnp.float32
            )
        if config.num_token_types:
            self.token_type_embedding = self.param(
                "token_type_embedding", init, (config.num_token_types, config.embed_dim), jnp.float32
            )
        if config.embedding_norm:
            self.embedding_norm = make_norm(config)
        if config.scan_layers:
            self.layers = scanned_class(config, stack)(config, stack)
        else:
            block = block_class(config)
            # Flax names the members of a list layer_0, layer_1, ...
            self.layer = [block(config, stack) for _ in range(stack.num_layers)]
        if config.norm_position == "pre":
            self.final_norm = make_norm(config)

    def __call__(
        self,
        vectors: jax.Array,
        *,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        token_types: jax.Array | None = None,
        row_keys: jax.Array | None = None,
        cache: KVCache | None = None,
        source: jax.Array | None = None,
        source_mask: AttentionMask | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        """Run all layers.

        Args:
            vectors: Token embeddings, `[batch, length, embed_dim]`.
            positions: `[batch or 1, length] int32`; None: 0, 1, 2, ..., from the cache's index on.
                With a cache and relative positions, rows differ by padding on the left only.
            segment_ids: `[batch, length] int32`; tokens attend within their own id. Not with a cache.
            attention_mask: `[batch, key_length] bool`, True = attend to that key; or
                `[batch, length, key_length] bool`; key_length is length, or the slots of the cache.
            token_types: `[batch, length] int32`; None: all 0.
            row_keys: `[batch]` typed PRNG keys; dropout is on exactly when given.
            cache: Keys and values of earlier tokens; the new tokens are added to it.
            source: Hidden states of an encoder, `[batch, source_length, embed_dim]`.
            source_mask: Which of them a token may attend to.

        Returns:
            `[batch, length, embed_dim]` in the compute dtype, and the cache.

        Raises:
            UserError: the row or the cache is longer than the model's positions.
        """
        self._check_lengths(vectors, positions, segment_ids, attention_mask, cache)
        offset = 0 if cache is None else cache.index
        mask = make_mask(
            causal=self.stack.causal,
            offset=offset,
            segment_ids=segment_ids,
            attention_mask=attention_mask,
        )
        hidden = self._embed(vectors, positions, offset, token_types)
        hidden = dropout(
            hidden,
            row_keys,
            rate=self.config.dropout_rate,
            layer=self.stack.first_layer,
            site="embedding",
        )
        places = _positions_or_count(positions, vectors, offset)
        if cache is not None and self.config.positions == "relative":
            # Of the row that is furthest on; every other is behind it by its padding.
            places = places.max(axis=0, keepdims=True)
            cache = cache.place(places)
        inputs = LayerInputs(
            mask=mask,
            rotary=self._rotary(places),
            bias=self._bias(places, cache),
            row_keys=row_keys,
            source=source,
            source_mask=source_mask,
        )
        hidden, cache = self._run_layers((hidden, cache), inputs)
        if self.config.norm_position == "pre":
            hidden = self.final_norm(hidden)
        return hidden, None if cache is None else cache.replace(index=offset + vectors.shape[1])

    def _embed(self, hidden, positions, offset, token_types) -> jax.Array:
        """Positions and types added, `[batch, length, embed_dim]` in the compute dtype.

        A position or type outside its table becomes NaN, not a neighbour's vector.
        """
        config = self.config
        if config.positions == "learned" and positions is None and isinstance(offset, int):
            # A slice: its gradient is a sum over the batch, a gather's is a scatter.
            hidden = hidden + self.position_embedding[None, : hidden.shape[1]]
        elif config.positions == "learned":
            positions = _positions_or_count(positions, hidden, offset)
            hidden = hidden + jnp.take(self.position_embedding, positions, axis=0, mode="fill")
        elif config.positions == "sinusoidal":
            # Source: Vaswani et al. 2017, section 3.4: waves of height 1 would drown the tokens.
            positions = _positions_or_count(positions, hidden, offset)
            hidden = hidden * math.sqrt(config.embed_dim) + sinusoidal_embedding(
                positions, config.embed_dim
            )
        if config.num_token_types and token_types is None:
            hidden = hidden + self.token_type_embedding[None, :1]
        elif config.num_token_types:
            hidden = hidden + jnp.take(self.token_type_embedding, token_types, axis=0, mode="fill")
        if config.embedding_norm:
            return self.embedding_norm(hidden)
        return hidden.astype(config.dtype)

    def _rotary(self, positions: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Tables that turn queries and keys."""
        if self.config.positions != "rotary":
            return None
        return rotary_tables(positions, self.config.head_dim, self.config.rotary_base)

    def _bias(self, positions: jax.Array, cache: KVCache | None) -> jax.Array | None:
        """What relative positions add to the scores of every layer."""
        if self.config.positions != "relative":
            return None
        key_positions = positions if cache is None else cache.positions
        buckets = relative_buckets(positions, key_positions, causal=self.stack.causal)
        return relative_bias(self.relative_embedding, buckets)

    def _run_layers(self, carry: Carry, inputs: LayerInputs) -> Carry:
        """All blocks in turn on `(hidden, cache)`."""
        if self.config.scan_layers:
            return self.layers(carry, jnp.arange(self.stack.num_layers), inputs)[0]
        for layer, block in enumerate(self.layer):
            carry, _ = block(carry, layer, inputs)
        return carry

    def _check_lengths(self, vectors, positions, segment_ids, attention_mask, cache) -> None:
        """Refuse what would read past a table, or mask the wrong keys, without a word."""
        batch, length = vectors.shape[:2]
        key_length = length if cache is None else cache.slots
        # Positions that are given may count otherwise than slots do.
        room = key_length if positions is None else length
        if self.config.positions == "learned" and room > self.stack.max_length:
            raise UserError(
                f"model.positions = learned holds {self.stack.max_length} positions "
                f"({self.stack.length_key}), but the row has room for {room} tokens; shorten it "
                "or use model.positions = rotary."
            )
        if length > key_length:
            raise ValueError(f"{length} tokens do not fit a cache of {key_length} slots")
        if cache is not None and segment_ids is not None:
            raise ValueError("segment_ids cannot be used with a cache, which does not keep them")
        expected = [(batch, key_length), (batch, length, key_length)]
        if attention_mask is not None and attention_mask.shape not in expected:
            raise ValueError(
                f"attention_mask has shape {attention_mask.shape}, expected {expected[0]} or {expected[1]}"
            )


def _positions_or_count(positions, vectors: jax.Array, offset) -> jax.Array:
    """The given positions, or a count from `offset` on, `[batch or 1, length] int32`."""
    if positions is not None:
        return positions
    return jnp.arange(vectors.shape[1])[None, :] + offset
