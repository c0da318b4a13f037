"""The Transformer: embeddings, one or two stacks of blocks, and a head."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdp.model.cache import KVCache, init_source_cache
from jaxdp.model.config import TransformerConfig
from jaxdp.model.dense import Dense, matmul_float32
from jaxdp.model.heads import Classifier, MaskedLMHead
from jaxdp.model.masks import make_mask
from jaxdp.model.stack import Stack


class Transformer(nn.Module):
    """A decoder, an encoder, or an encoder-decoder, as `config.architecture` says.

    Parameters are float32, and every kernel is `[in, out]`. Init is normal with the
    standard deviations `TransformerConfig.init_stddev` and `StackConfig.branch_init_stddev`.
    """

    config: TransformerConfig

    def setup(self):
        config = self.config
        init = nn.initializers.normal(config.init_stddev)
        self.token_embedding = self.param(
            "token_embedding", init, (config.vocab_size, config.embed_dim), jnp.float32
        )
        if config.has_source:
            if not config.share_embeddings:
                shape = (config.target_vocab_size, config.embed_dim)
                self.target_token_embedding = self.param(
                    "target_token_embedding", init, shape, jnp.float32
                )
            self.encoder = Stack(config, config.encoder)
            self.decoder = Stack(config, config.decoder)
        else:
            self.only_stack = Stack(
                config, config.decoder if config.architecture == "decoder" else config.encoder
            )
            # Its layers are those of the model: no name of its own in their paths.
            nn.share_scope(self, self.only_stack)
        if config.head == "masked_lm":
            self.masked_lm = MaskedLMHead(config)
            if config.use_bias:
                self.output_bias = self.param(
                    "output_bias", nn.initializers.zeros, (config.vocab_size,), jnp.float32
                )
        if config.head == "classification":
            self.classifier = Classifier(config)
        elif not config.tie_embeddings:
            self.output = Dense(
                config.embed_dim,
                config.output_vocab_size,
                False,
                config.dtype,
                stddev=config.init_stddev,
            )

    def __call__(
        self,
        tokens: jax.Array,
        *,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        token_types: jax.Array | None = None,
        target_tokens: jax.Array | None = None,
        target_positions: jax.Array | None = None,
        target_segment_ids: jax.Array | None = None,
        predict_at: jax.Array | None = None,
        row_keys: jax.Array | None = None,
        cache: KVCache | None = None,
    ) -> jax.Array | tuple[jax.Array, KVCache]:
        """Scores of the vocabulary at every token, or of the labels for every row.

        Args:
            tokens: `[batch, length] int32`: the row; in an encoder-decoder the source.
            positions: `[batch or 1, length] int32`; None: 0, 1, 2, ..., from the cache's index on.
            segment_ids: `[batch, length] int32`; tokens attend within their own id. Not with a cache.
            attention_mask: `[batch, key_length] bool`, True = attend to that key; or
                `[batch, length, key_length] bool`, for each query by itself. key_length is
                length, or the slots of the cache.
            token_types: `[batch, length] int32`, where the model has types; None: all 0.
            target_tokens: What the decoder of an encoder-decoder reads,
                `[batch, target_length] int32`: the target shifted by one.
            target_positions: `[batch or 1, target_length] int32`, as `positions`.
            target_segment_ids: `[batch, target_length] int32`, beside `segment_ids`; a
                target token attends to the target and to the source within its own id.
            predict_at: `[batch, num_predicted] int32`: positions that scores of the
                vocabulary are wanted of; None: all.
            row_keys: `[batch]` typed PRNG keys; dropout is on exactly when given.
            cache: Of a decoder: keys and values of earlier tokens; the new tokens are
                added to it. An encoder-decoder takes it in `decode`.

        Returns:
            `[batch, length, vocab_size] float32` (target_length and target_vocab_size in an
            encoder-decoder, num_predicted where given), or `[batch, num_labels] float32` of a
            classifier; with a cache `(logits, cache)`.

        Raises:
            UserError: the row or the cache is longer than the model's positions.
        """
        config = self.config
        _check_target(config, target_tokens, cache)
        reading = {
            "positions": positions,
            "segment_ids": segment_ids,
            "attention_mask": attention_mask,
            "token_types": token_types,
            "row_keys": row_keys,
        }
        if config.has_source:
            source = self.encode(tokens, **reading)
            hidden, _ = self.decoder(
                self._embed(target_tokens),
                positions=target_positions,
                segment_ids=target_segment_ids,
                row_keys=row_keys,
                source=source,
                source_mask=make_mask(
                    causal=False,
                    segment_ids=target_segment_ids,
                    key_segment_ids=segment_ids,
                    attention_mask=attention_mask,
                ),
            )
        else:
            hidden, cache = self.only_stack(self._embed(tokens), cache=cache, **reading)
        if config.head == "classification":
            return self.classifier(hidden, attention_mask, row_keys)
        logits = self._logits(hidden, predict_at)
        return logits if cache is None else (logits, cache)

    def encode(self, tokens: jax.Array, **inputs) -> jax.Array:
        """Hidden states after the last norm, of the encoder or of the only stack.

        Args:
            tokens: `[batch, length] int32`.
            **inputs: positions, segment_ids, attention_mask, token_types and row_keys of `__call__`.

        Returns:
            `[batch, length, embed_dim]` in the compute dtype.
        """
        if not self.config.has_source:
            return self.only_stack(self._embed(tokens), **inputs)[0]
        vectors = jnp.take(self.token_embedding, tokens, axis=0, mode="fill")
        return self.encoder(vectors, **inputs)[0]

    def decode(
        self,
        tokens: jax.Array,
        *,
        cache: KVCache,
        positions: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        source: jax.Array | None = None,
        source_mask: jax.Array | None = None,
        predict_at: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """One piece of what is being written, after what the cache remembers.

        Args:
            tokens: `[batch, length] int32`.
            cache: From `init_cache`, or from the piece before.
            positions: `[batch or 1, length] int32`; None: from the cache's index on.
            attention_mask: `[batch, slots]` or `[batch, length, slots] bool`, True = attend.
            source: From `encode`, `[batch, source_length, embed_dim]`, with the first piece
                of an encoder-decoder; the cache remembers its keys and values.
            source_mask: `[batch, source_length] bool`, False on padding; beside `source`.
            predict_at: `[batch, num_predicted] int32`, as in `__call__`.

        Returns:
            Logits `[batch, length or num_predicted, vocab_size] float32`, and the cache.
        """
        stack = self.decoder if self.config.has_source else self.only_stack
        cross_mask = None
        if source is not None:
            cache = cache.replace(source=init_source_cache(self.config, source_mask))
        if cache.source is not None:
            cross_mask = make_mask(causal=False, attention_mask=cache.source.mask)
        hidden, cache = stack(
            self._embed(tokens),
            positions=positions,
            attention_mask=attention_mask,
            cache=cache,
            source=source,
            source_mask=cross_mask,
        )
        return self._logits(hidden, predict_at), cache

    def _embed(self, tokens: jax.Array) -> jax.Array:
        """Vectors of what the model writes, `[batch, length, embed_dim] float32`.

        A token outside its table becomes NaN, not a neighbour's vector.
        """
        return jnp.take(self._output_embedding(), tokens, axis=0, mode="fill")

    def _output_embedding(self) -> jax.Array:
        """The token embedding on the side of the output, `[vocab_size, embed_dim] float32`."""
        config = self.config
        separate = config.has_source and not config.share_embeddings
        return self.target_token_embedding if separate else self.token_embedding

    def _logits(self, hidden: jax.Array, predict_at: jax.Array | None) -> jax.Array:
        """Scores of the vocabulary, `[batch, length, vocab_size] float32`."""
        config = self.config
        if predict_at is not None:
            hidden = jnp.take_along_axis(hidden, predict_at[:, :, None], axis=1)
        if config.head == "masked_lm":
            hidden = self.masked_lm(hidden)
        table = self._output_embedding() if config.tie_embeddings else self.output.kernel.T
        flat = hidden.reshape(-1, config.embed_dim)
        logits = matmul_float32(flat, table.astype(config.dtype))
        if config.head == "masked_lm" and config.use_bias:
            logits = logits + self.output_bias[None, :]
        return logits.reshape(*hidden.shape[:2], config.output_vocab_size)


def _check_target(config: TransformerConfig, target_tokens, cache) -> None:
    """A caller who gives what the architecture does not have, or leaves out what it needs."""
    if config.has_source != (target_tokens is not None):
        needs = "needs" if config.has_source else "has no"
        raise ValueError(f"architecture {config.architecture} {needs} target_tokens")
    if cache is not None and config.architecture != "decoder":
        raise ValueError(f"architecture {config.architecture} has no cache here")
