"""Transformer: a decoder, encoder or encoder-decoder with token embeddings and a head."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdp.model.block import Gather
from jaxdp.model.cache import KVCache, init_cross_attention_cache
from jaxdp.model.config import TransformerConfig
from jaxdp.model.heads import Classifier, MaskedLMHead
from jaxdp.model.layers import Dense
from jaxdp.model.masks import make_mask
from jaxdp.model.output_layer import OutputLayer
from jaxdp.model.stack import TransformerStack


class Transformer(nn.Module):
    """Decoder, encoder or encoder-decoder, selected by `config.architecture`.

    Parameters are float32, and every kernel is `[in, out]`. Kernels and embeddings are
    initialised from a normal distribution with the standard deviation
    `TransformerConfig.init_stddev`, or `StackConfig.branch_init_stddev` for the output
    projection of a residual branch.

    Attributes:
        config: Model configuration.
        gather: Gathers sharded parameters where they are used, layer by layer; None: the parameters are whole.
            `apply_model` gathers those outside the layers.
    """

    config: TransformerConfig
    gather: Gather | None = None

    def setup(self):
        config = self.config
        init = nn.initializers.normal(config.init_stddev)
        self.token_embedding = self.param("token_embedding", init, (config.vocab_size, config.embed_dim), jnp.float32)
        if config.has_source:
            if not config.share_embeddings:
                shape = (config.target_vocab_size, config.embed_dim)
                self.target_token_embedding = self.param("target_token_embedding", init, shape, jnp.float32)
            self.encoder = TransformerStack(config, config.encoder, self.gather, "encoder/")
            self.decoder = TransformerStack(config, config.decoder, self.gather, "decoder/")
        else:
            only = config.decoder if config.architecture == "decoder" else config.encoder
            self.body = TransformerStack(config, only, self.gather)
            # Parameter paths omit the name of the only stack: layer_0/..., not body/layer_0/...
            nn.share_scope(self, self.body)
        if config.head == "masked_lm":
            self.masked_lm = MaskedLMHead(config)
        if config.head == "classification":
            self.classifier = Classifier(config)
        if config.head in ("classification", "none"):
            return
        if config.has_output_bias:
            shape = (config.output_vocab_size,)
            self.output_bias = self.param("output_bias", nn.initializers.zeros, shape, jnp.float32)
        if not config.tie_embeddings:
            self.output = Dense(
                config.embed_dim,
                config.output_vocab_size,
                False,
                config.dtype,
                config.platform,
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
        """Computes logits over the vocabulary for every token, or over the labels for every sequence.

        Args:
            tokens: Input tokens, `[batch, length] int32`; the source in an encoder-decoder.
            positions: Positions, `[batch or 1, length] int32`; None: counted from the cache's
                index, or from 0.
            segment_ids: Segment of each token, `[batch, length] int32`; a token attends only
                to its own segment. Not supported with a cache.
            attention_mask: True where attention is allowed, `[batch, key_length] bool`, or
                `[batch, length, key_length] bool` for a mask per query, where key_length is
                the length or the slots of the cache.
            token_types: Token types, `[batch, length] int32`, if the model has any; None: all 0.
            target_tokens: Decoder inputs of an encoder-decoder, `[batch, target_length] int32`:
                the target shifted right by one.
            target_positions: Positions of the target, `[batch or 1, target_length] int32`, as
                `positions`.
            target_segment_ids: Segment of each target token, `[batch, target_length] int32`,
                together with `segment_ids`; a target token attends only to target and source
                tokens of its own segment.
            predict_at: Positions to compute logits for, `[batch, num_predicted] int32`; None:
                all positions.
            row_keys: Typed PRNG key of each sequence, `[batch]`; None: no dropout.
            cache: Keys and values of earlier tokens of a decoder, to which the new tokens are
                appended. For an encoder-decoder use `decode`.

        Returns:
            Logits, `[batch, length, vocab_size] float32` (target_length and target_vocab_size
            in an encoder-decoder, num_predicted with `predict_at`), or
            `[batch, num_labels] float32` of a classifier, or without a head the final hidden states
            `[batch, length, embed_dim] float32`. With a cache `(logits, cache)`.

        Raises:
            UserError: The sequence or the cache is longer than the learned positions.
        """
        _check_target(self.config, target_tokens, cache)
        hidden, cache = self._hidden(
            tokens,
            target_tokens,
            target_positions,
            target_segment_ids,
            cache,
            positions=positions,
            segment_ids=segment_ids,
            attention_mask=attention_mask,
            token_types=token_types,
            row_keys=row_keys,
        )
        if self.config.head == "classification":
            return self.classifier(hidden, attention_mask, row_keys)
        if self.config.head == "none":
            return hidden.astype(jnp.float32)
        logits = self._output_layer(hidden, predict_at).logits()
        return logits if cache is None else (logits, cache)

    def output_layer(
        self,
        tokens: jax.Array,
        *,
        target_tokens: jax.Array | None = None,
        target_positions: jax.Array | None = None,
        target_segment_ids: jax.Array | None = None,
        predict_at: jax.Array | None = None,
        **inputs: jax.Array | None,
    ) -> OutputLayer:
        """Computes the final hidden states, for a loss that never holds the logits of all tokens.

        Args:
            tokens: Input tokens, `[batch, length] int32`; the source in an encoder-decoder.
            target_tokens: As in `__call__`.
            target_positions: As in `__call__`.
            target_segment_ids: As in `__call__`.
            predict_at: As in `__call__`.
            **inputs: `positions`, `segment_ids`, `attention_mask`, `token_types` and `row_keys` as in `__call__`.

        Returns:
            Hidden states and output layer of a model with a vocabulary, not of a classifier.

        Raises:
            UserError: The sequence is longer than the learned positions.
        """
        _check_target(self.config, target_tokens, None)
        hidden, _ = self._hidden(tokens, target_tokens, target_positions, target_segment_ids, None, **inputs)
        return self._output_layer(hidden, predict_at)

    def _hidden(
        self,
        tokens: jax.Array,
        target_tokens: jax.Array | None,
        target_positions: jax.Array | None,
        target_segment_ids: jax.Array | None,
        cache: KVCache | None,
        **inputs: Any,
    ) -> tuple[jax.Array, KVCache | None]:
        """Runs all layers: final hidden states `[batch, length or target_length, embed_dim]`, and the cache."""
        if not self.config.has_source:
            return self.body(tokens, self._embed(tokens), cache=cache, **inputs)
        assert target_tokens is not None, "_check_target refuses an encoder-decoder without them"
        encoder_output = self.encode(tokens, **inputs)
        return self.decoder(
            target_tokens,
            self._embed(target_tokens),
            positions=target_positions,
            segment_ids=target_segment_ids,
            row_keys=inputs.get("row_keys"),
            encoder_output=encoder_output,
            source_mask=make_mask(
                causal=False,
                segment_ids=target_segment_ids,
                key_segment_ids=inputs.get("segment_ids"),
                attention_mask=inputs.get("attention_mask"),
            ),
        )

    def encode(self, tokens: jax.Array, **inputs) -> jax.Array:
        """Computes the final hidden states of the encoder, or of the only stack.

        Args:
            tokens: Input tokens, `[batch, length] int32`.
            **inputs: `positions`, `segment_ids`, `attention_mask`, `token_types` and `row_keys`
                as in `__call__`.

        Returns:
            Hidden states, `[batch, length, embed_dim]` in the compute dtype.
        """
        if not self.config.has_source:
            return self.body(tokens, self._embed(tokens), **inputs)[0]
        embeddings = jnp.take(self.token_embedding, tokens, axis=0, mode="fill")
        return self.encoder(tokens, embeddings, **inputs)[0]

    def decode(
        self,
        tokens: jax.Array,
        *,
        cache: KVCache,
        positions: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        encoder_output: jax.Array | None = None,
        source_mask: jax.Array | None = None,
        predict_at: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """Runs the decoder on the next tokens, given a cache of the earlier ones.

        Args:
            tokens: Next tokens, `[batch, length] int32`.
            cache: Result of `init_cache` or of the previous call.
            positions: Positions, `[batch or 1, length] int32`; None: counted from the cache's index.
            attention_mask: True where attention is allowed, `[batch, slots]` or
                `[batch, length, slots] bool`.
            encoder_output: Result of `encode`, `[batch, source_length, embed_dim]`, in the first
                call of an encoder-decoder; the cache stores its keys and values.
            source_mask: True at valid source tokens, `[batch, source_length] bool`, together
                with `encoder_output`.
            predict_at: Positions to compute logits for, `[batch, num_predicted] int32`; None: all.

        Returns:
            Logits `[batch, length or num_predicted, vocab_size] float32`, and the cache.
        """
        stack = self.decoder if self.config.has_source else self.body
        cross_mask = None
        if encoder_output is not None:
            assert source_mask is not None, "comes together with `encoder_output`"
            cross_attention = init_cross_attention_cache(self.config, source_mask)
            cache = dataclasses.replace(cache, cross_attention=cross_attention)
        if cache.cross_attention is not None:
            cross_mask = make_mask(causal=False, attention_mask=cache.cross_attention.mask)
        hidden, updated = stack(
            tokens,
            self._embed(tokens),
            positions=positions,
            attention_mask=attention_mask,
            cache=cache,
            encoder_output=encoder_output,
            source_mask=cross_mask,
        )
        assert updated is not None, "a stack that gets a cache returns one"
        return self._output_layer(hidden, predict_at).logits(), updated

    def _embed(self, tokens: jax.Array) -> jax.Array:
        """Embeds the tokens of the decoder or of the only stack, `[batch, length, embed_dim] float32`.

        A token outside the vocabulary becomes NaN instead of being clamped.
        """
        return jnp.take(self._output_embedding(), tokens, axis=0, mode="fill")

    def _output_embedding(self) -> jax.Array:
        """Returns the token embedding of the predicted tokens, `[vocab_size, embed_dim] float32`."""
        config = self.config
        separate = config.has_source and not config.share_embeddings
        return self.target_token_embedding if separate else self.token_embedding

    def _output_layer(self, hidden: jax.Array, predict_at: jax.Array | None) -> OutputLayer:
        """Returns the output layer with the hidden states that it maps to logits."""
        config = self.config
        if predict_at is not None:
            hidden = jnp.take_along_axis(hidden, predict_at[:, :, None], axis=1)
        if config.head == "masked_lm":
            hidden = self.masked_lm(hidden)
        if config.output_scale != 1:
            hidden = hidden * config.output_scale
        table = self._output_embedding() if config.tie_embeddings else self.output.kernel.T
        bias = self.output_bias if config.has_output_bias else None
        return OutputLayer(hidden, table, bias, config.loss_chunk, config.platform, config.logit_softcap)


def _check_target(config: TransformerConfig, target_tokens, cache) -> None:
    """Raises if `target_tokens` or `cache` do not fit the architecture."""
    if config.has_source != (target_tokens is not None):
        needs = "needs" if config.has_source else "has no"
        raise ValueError(f"architecture {config.architecture} {needs} target_tokens")
    if cache is not None and config.architecture != "decoder":
        raise ValueError(f"architecture {config.architecture} takes no cache in __call__")
