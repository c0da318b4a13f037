"""The Transformer: embeddings, a stack of blocks, logits."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdp.errors import UserError
from jaxdp.model.block import block_class, scanned_class
from jaxdp.model.cache import KVCache
from jaxdp.model.config import TransformerConfig
from jaxdp.model.dense import Dense, matmul_float32
from jaxdp.model.dropout import dropout
from jaxdp.model.masks import make_mask
from jaxdp.model.norm import Norm
from jaxdp.model.positions import rotary_tables, sinusoidal_embedding


class Transformer(nn.Module):
    """A decoder-only Transformer.

    Parameters are float32, and every kernel is `[in, out]`. Init is normal with the
    standard deviations of `TransformerConfig.init_stddev` and `branch_init_stddev`.
    """

    config: TransformerConfig

    def setup(self):
        config = self.config
        init = nn.initializers.normal(config.init_stddev)
        self.token_embedding = self.param(
            "token_embedding", init, (config.vocab_size, config.embed_dim), jnp.float32
        )
        if config.positions == "learned":
            self.position_embedding = self.param(
                "position_embedding", init, (config.max_length, config.embed_dim), jnp.float32
            )
        if config.scan_layers:
            self.layers = scanned_class(config)(config)
        else:
            block = block_class(config)
            # Flax names the members of a list layer_0, layer_1, ...
            self.layer = [block(config) for _ in range(config.num_layers)]
        if config.norm_position == "pre":
            self.final_norm = Norm(config.norm, config.use_bias, config.dtype)
        if not config.tie_embeddings:
            self.output = Dense(
                config.embed_dim, config.vocab_size, False, config.dtype, stddev=config.init_stddev
            )

    def __call__(
        self,
        tokens: jax.Array,
        *,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        row_keys: jax.Array | None = None,
        cache: KVCache | None = None,
    ) -> jax.Array | tuple[jax.Array, KVCache]:
        """Predict a distribution over the vocabulary at every token.

        Args:
            tokens: `[batch, length] int32`.
            positions: `[batch, length] int32`; None: 0, 1, 2, ..., from the cache's index on.
            segment_ids: `[batch, length] int32`; tokens attend within their own id. Not with a cache.
            attention_mask: `[batch, key_length] bool`, True = attend to that key;
                key_length is length, or the slots of the cache.
            row_keys: `[batch]` typed PRNG keys; dropout is on exactly when given.
            cache: Keys and values of earlier tokens; the new tokens are added to it.

        Returns:
            Logits `[batch, length, vocab_size] float32`; with a cache `(logits, cache)`.

        Raises:
            UserError: the row or the cache is longer than the model's positions.
        """
        self._check_lengths(tokens, segment_ids, attention_mask, cache)
        config = self.config
        offset = 0 if cache is None else cache.index
        mask = make_mask(
            causal=config.causal, offset=offset, segment_ids=segment_ids, attention_mask=attention_mask
        )
        hidden = self._embed(tokens, positions, offset)
        hidden = dropout(hidden, row_keys, rate=config.dropout_rate, layer=0, site="embedding")
        rotary = None
        if config.positions == "rotary":
            rotary = rotary_tables(
                _positions_or_count(positions, tokens, offset), config.head_dim, config.rotary_base
            )
        hidden, cache = self._run_layers((hidden, cache), mask, rotary, row_keys)
        logits = self._logits(hidden)
        return logits if cache is None else (logits, cache.replace(index=offset + tokens.shape[1]))

    def _embed(self, tokens, positions, offset) -> jax.Array:
        """Vectors of the tokens and their positions, `[batch, length, embed_dim]` in the compute dtype.

        A token or position outside its table becomes NaN, not a neighbour's vector.
        """
        config = self.config
        hidden = jnp.take(self.token_embedding, tokens, axis=0, mode="fill")
        if config.positions == "learned" and positions is None and isinstance(offset, int):
            # A slice: its gradient is a sum over the batch, a gather's is a scatter.
            hidden = hidden + self.position_embedding[None, : tokens.shape[1]]
        elif config.positions == "learned":
            positions = _positions_or_count(positions, tokens, offset)
            hidden = hidden + jnp.take(self.position_embedding, positions, axis=0, mode="fill")
        elif config.positions == "sinusoidal":
            # Source: Vaswani et al. 2017, section 3.4: waves of height 1 would drown the tokens.
            positions = _positions_or_count(positions, tokens, offset)
            hidden = hidden * math.sqrt(config.embed_dim) + sinusoidal_embedding(
                positions, config.embed_dim
            )
        return hidden.astype(config.dtype)

    def _run_layers(self, carry, mask, rotary, row_keys):
        """All blocks in turn on `(hidden, cache)`."""
        if self.config.scan_layers:
            layers = jnp.arange(self.config.num_layers)
            return self.layers(carry, layers, mask, rotary, row_keys)[0]
        for layer, block in enumerate(self.layer):
            carry, _ = block(carry, layer, mask, rotary, row_keys)
        return carry

    def _logits(self, hidden: jax.Array) -> jax.Array:
        """Scores of the vocabulary, `[batch, length, vocab_size] float32`."""
        config = self.config
        if config.norm_position == "pre":
            hidden = self.final_norm(hidden)
        table = self.token_embedding if config.tie_embeddings else self.output.kernel.T
        flat = hidden.reshape(-1, config.embed_dim)
        logits = matmul_float32(flat, table.astype(config.dtype))
        return logits.reshape(*hidden.shape[:2], config.vocab_size)

    def _check_lengths(self, tokens, segment_ids, attention_mask, cache) -> None:
        """Refuse what would read past a table, or mask the wrong keys, without a word."""
        config = self.config
        length = tokens.shape[1]
        key_length = length if cache is None else cache.slots
        if config.positions == "learned" and key_length > config.max_length:
            raise UserError(
                f"model.positions = learned holds {config.max_length} positions (data.length), but the "
                f"row has room for {key_length} tokens; shorten it or use model.positions = rotary."
            )
        if length > key_length:
            raise ValueError(f"{length} tokens do not fit a cache of {key_length} slots")
        if cache is not None and segment_ids is not None:
            raise ValueError("segment_ids cannot be used with a cache, which does not keep them")
        expected = (tokens.shape[0], key_length)
        if attention_mask is not None and attention_mask.shape != expected:
            raise ValueError(f"attention_mask has shape {attention_mask.shape}, expected {expected}")


def _positions_or_count(positions, tokens: jax.Array, offset) -> jax.Array:
    """The given positions, or a count from `offset` on, `[batch or 1, length] int32`."""
    if positions is not None:
        return positions
    return jnp.arange(tokens.shape[1])[None, :] + offset
