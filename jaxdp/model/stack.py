"""Encoder or decoder stack: position encodings, blocks and final norm."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdp.errors import UserError
from jaxdp.model.block import Carry, Gather, LayerInputs, block_class, scanned_class
from jaxdp.model.cache import KVCache
from jaxdp.model.config import StackConfig, TransformerConfig
from jaxdp.model.dropout import dropout
from jaxdp.model.layers import ValueEmbedding, make_norm
from jaxdp.model.masks import AttentionMask, make_mask
from jaxdp.model.positions import relative_bias, relative_buckets, sinusoidal_embedding
from jaxdp.model.rotary import RotaryTables, rotary_tables


class TransformerStack(nn.Module):
    """Encoder or decoder: maps token embeddings to hidden states."""

    config: TransformerConfig
    stack: StackConfig
    gather: Gather | None = None
    prefix: str = ""  # path of this stack in the parameters, with a slash at its end

    def setup(self):
        config, stack = self.config, self.stack
        init = nn.initializers.normal(config.init_stddev)
        if config.positions == "learned":
            self.position_embedding = self.param(
                "position_embedding", init, (stack.max_length + config.position_offset, config.embed_dim), jnp.float32
            )
        if config.positions == "relative":
            # One table shared by all layers, as in T5.
            self.relative_embedding = self.param(
                "relative_embedding", init, (config.relative_buckets, config.num_heads), jnp.float32
            )
        if config.num_token_types:
            self.token_type_embedding = self.param(
                "token_type_embedding", init, (config.num_token_types, config.embed_dim), jnp.float32
            )
        if config.embedding_norm:
            self.embedding_norm = make_norm(config)
        if config.value_embeddings:
            # Outside of the layers, because scanned layers have equal parameters.
            num_features = config.num_kv_heads * config.head_dim
            self.value_embedding = [
                ValueEmbedding(stack.vocab_size, num_features, config.init_stddev, config.dtype)
                for _ in range((stack.num_layers + 1) // 2)
            ]
        block = block_class(config, self.gather, f"{self.prefix}*")
        if config.scan_layers:
            self.layers = scanned_class(stack, block)(config, stack)
        else:
            # Flax names the elements of this list layer_0, layer_1, ...
            self.layer = [
                block(config, stack, config.first_attention_norm or index > 0) for index in range(stack.num_layers)
            ]
        if config.has_input_norms:
            self.final_norm = make_norm(config)

    def __call__(
        self,
        tokens: jax.Array,
        embeddings: jax.Array,
        *,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        token_types: jax.Array | None = None,
        row_keys: jax.Array | None = None,
        cache: KVCache | None = None,
        encoder_output: jax.Array | None = None,
        source_mask: AttentionMask | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        """Runs all layers.

        Args:
            tokens: Tokens, `[batch, length] int32`.
            embeddings: Token embeddings, `[batch, length, embed_dim]`.
            positions: Positions, `[batch or 1, length] int32`; None: counted from the cache's
                index, or from 0. With a cache and relative positions, the sequences may
                differ by left padding only.
            segment_ids: Segment of each token, `[batch, length] int32`; a token attends only
                to its own segment. Not supported with a cache.
            attention_mask: True where attention is allowed, `[batch, key_length] bool` or
                `[batch, length, key_length] bool`, where key_length is the length or the
                slots of the cache.
            token_types: Token types, `[batch, length] int32`; None: all 0.
            row_keys: Typed PRNG key of each sequence, `[batch]`; None: no dropout.
            cache: Keys and values of earlier tokens, to which the new tokens are appended.
            encoder_output: Hidden states of the encoder, `[batch, source_length, embed_dim]`.
            source_mask: Mask of cross-attention.

        Returns:
            Hidden states `[batch, length, embed_dim]` in the compute dtype, and the cache.

        Raises:
            UserError: The sequence or the cache is longer than the learned positions.
        """
        self._check_lengths(embeddings, positions, segment_ids, attention_mask, cache)
        offset = 0 if cache is None else cache.index
        hidden = self._embed(embeddings, positions, offset, token_types)
        hidden = dropout(
            hidden,
            row_keys,
            rate=self.config.dropout_rate,
            layer=self.stack.first_layer,
            site="embedding",
        )
        positions = _positions_or_count(positions, embeddings, offset)
        token_positions = None
        if cache is not None and cache.positions is not None:
            # Of the sequence without padding; the others are shifted by their left padding.
            shared = positions.max(axis=0, keepdims=True)
            cache, key_positions = cache.set_positions(shared)
            token_positions = shared, key_positions
        mask = make_mask(
            causal=self.stack.causal,
            offset=offset,
            segment_ids=segment_ids,
            attention_mask=attention_mask,
            token_positions=token_positions,
        )
        inputs = LayerInputs(
            mask=mask,
            rotary=self._rotary(positions, windowed=False),
            window_rotary=self._rotary(positions, windowed=True) if self.config.rotary_local_base else None,
            bias=self._bias(*(token_positions or (positions, positions))),
            row_keys=row_keys,
            encoder_output=encoder_output,
            source_mask=source_mask,
            embeddings=hidden if self.config.residual_scalars else None,
            value_embeddings=self._value_embeddings(tokens),
        )
        hidden, cache = self._run_layers((hidden, cache), inputs)
        if self.config.has_input_norms:
            hidden = self.final_norm(hidden)
        return hidden, None if cache is None else dataclasses.replace(cache, index=offset + embeddings.shape[1])

    def _embed(self, hidden, positions, offset, token_types) -> jax.Array:
        """Scales the token embeddings and adds position and token type embeddings, `[batch, length, embed_dim]` in the compute dtype.

        A position or type outside its table becomes NaN instead of being clamped.
        """
        config = self.config
        if config.embedding_scale != 1:
            hidden = hidden * config.embedding_scale
        if config.positions == "learned" and positions is None and isinstance(offset, int):
            # The gradient of a slice is a sum over the batch; that of a gather is a slower scatter.
            start = config.position_offset
            hidden = hidden + self.position_embedding[None, start : start + hidden.shape[1]]
        elif config.positions == "learned":
            positions = _positions_or_count(positions, hidden, offset) + config.position_offset
            hidden = hidden + jnp.take(self.position_embedding, positions, axis=0, mode="fill")
        elif config.positions == "sinusoidal":
            positions = _positions_or_count(positions, hidden, offset)
            hidden = hidden + sinusoidal_embedding(positions, config.embed_dim)
        if config.num_token_types and token_types is None:
            hidden = hidden + self.token_type_embedding[None, :1]
        elif config.num_token_types:
            hidden = hidden + jnp.take(self.token_type_embedding, token_types, axis=0, mode="fill")
        if config.embedding_norm:
            return self.embedding_norm(hidden)
        return hidden.astype(config.dtype)

    def _rotary(self, positions: jax.Array, *, windowed: bool) -> RotaryTables | None:
        """Returns the tables of rotary positions in layers with a window or without, or None."""
        if self.config.positions != "rotary":
            return None
        return rotary_tables(positions, self.config, windowed=windowed)

    def _bias(self, positions: jax.Array, key_positions: jax.Array) -> jax.Array | None:
        """Returns the bias of relative positions, shared by all layers, or None."""
        if self.config.positions != "relative":
            return None
        buckets = relative_buckets(
            positions,
            key_positions,
            causal=self.stack.causal,
            num_buckets=self.config.relative_buckets,
            max_distance=self.config.relative_max_distance,
        )
        return relative_bias(self.relative_embedding, buckets)

    def _value_embeddings(self, tokens: jax.Array) -> jax.Array | None:
        """Returns the value embeddings of the layers that have them, stacked, or None."""
        if not self.config.value_embeddings:
            return None
        return jnp.stack([embed(tokens) for embed in self.value_embedding])

    def _run_layers(self, carry: Carry, inputs: LayerInputs) -> Carry:
        """Runs all blocks on `(hidden, cache)`."""
        if self.config.scan_layers:
            return self.layers(carry, jnp.arange(self.stack.num_layers), inputs)[0]
        for layer, block in enumerate(self.layer):
            carry, _ = block(carry, layer, inputs)
        return carry

    def _check_lengths(self, embeddings, positions, segment_ids, attention_mask, cache) -> None:
        """Raises for inputs that would silently read past a table or mask the wrong keys."""
        batch, length = embeddings.shape[:2]
        key_length = length if cache is None else cache.slots
        # Explicit positions need not equal the slot numbers, so only their count is checked.
        num_positions = key_length if positions is None else length
        if self.config.positions == "learned" and num_positions > self.stack.max_length:
            raise UserError(
                f"model.positions = learned has {self.stack.max_length} positions "
                f"({self.stack.length_key}), but the sequence has {num_positions} tokens; shorten it "
                "or use model.positions = rotary."
            )
        if length > key_length:
            raise ValueError(f"{length} tokens do not fit a cache of {key_length} slots")
        if cache is not None and segment_ids is not None:
            raise ValueError("segment_ids are not supported with a cache, which does not store them")
        expected = [(batch, key_length), (batch, length, key_length)]
        if attention_mask is not None and attention_mask.shape not in expected:
            raise ValueError(
                f"attention_mask has shape {attention_mask.shape}, expected {expected[0]} or {expected[1]}"
            )


def _positions_or_count(positions, embeddings: jax.Array, offset) -> jax.Array:
    """Returns the given positions, or a count from `offset`, `[batch or 1, length] int32`."""
    if positions is not None:
        return positions
    return jnp.arange(embeddings.shape[1])[None, :] + offset
