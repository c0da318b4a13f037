"""Model heads for masked language modelling and classification."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdp.model.config import TransformerConfig
from jaxdp.model.dropout import dropout
from jaxdp.model.layers import Dense, elementwise_activation, gelu, make_norm


class MaskedLMHead(nn.Module):
    """Transform of hidden states before the output embedding: dense layer, activation, norm.

    Source: Devlin et al. 2019 (BERT), released code.
    """

    config: TransformerConfig

    def setup(self):
        config = self.config
        width, stddev = config.embed_dim, config.init_stddev
        self.dense = Dense(width, width, config.use_bias, config.dtype, config.platform, stddev=stddev)
        self.norm = make_norm(config)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Maps `[batch, length, embed_dim]` to the same shape."""
        return self.norm(elementwise_activation(self.config.activation)(self.dense(hidden)))


POOLER_ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "gelu_norm": gelu}
"""Activation of each pooler, the dense layer between pooling and class scores."""


class Classifier(nn.Module):
    """Classification head: pooling over the valid tokens of a sequence, pooler, dropout and a dense layer.

    Source: Devlin et al. 2019, section 3.2 (first token, tanh); Radford et al. 2018, section 3.2 (last); Sanh et al. 2019
    (DistilBERT) and Warner et al. 2024 (ModernBERT), released code (relu; GELU and norm).
    """

    config: TransformerConfig

    def setup(self):
        config = self.config
        width, stddev = config.embed_dim, config.init_stddev
        if self._pooler != "none":
            use_bias = config.use_bias if self._pooler == "gelu_norm" else True
            self.pooler = Dense(width, width, use_bias, config.dtype, config.platform, stddev=stddev)
        if self._pooler == "gelu_norm":
            self.pooler_norm = make_norm(config)
        # Class scores are logits, and logits are always float32.
        self.output = Dense(width, config.num_labels, config.classifier_bias, "float32", config.platform, stddev=stddev)

    def __call__(self, hidden: jax.Array, attention_mask: jax.Array | None, row_keys: jax.Array | None) -> jax.Array:
        """Computes class scores.

        Args:
            hidden: Hidden states, `[batch, length, embed_dim]`.
            attention_mask: True at valid tokens, `[batch, length] bool`, with padding on
                either side; None: all tokens are valid.
            row_keys: Typed PRNG key of each sequence for dropout, `[batch]`, or None.

        Returns:
            Class scores, `[batch, num_labels] float32`.
        """
        pooled = self._transform(self._pool(hidden, attention_mask))
        pooled = dropout(pooled, row_keys, rate=self.config.dropout_rate, layer=0, site="classifier")
        return self.output(pooled)

    @property
    def _pooler(self) -> str:
        """Kind of the pooler, not "auto"."""
        automatic = "tanh" if self.config.pooling == "first" else "none"
        return automatic if self.config.pooler == "auto" else self.config.pooler

    def _transform(self, pooled: jax.Array) -> jax.Array:
        """Applies the pooler, `[batch, embed_dim]`."""
        if self._pooler == "none":
            return pooled
        pooled = POOLER_ACTIVATIONS[self._pooler](self.pooler(pooled))
        return self.pooler_norm(pooled) if self._pooler == "gelu_norm" else pooled

    def _pool(self, hidden: jax.Array, valid: jax.Array | None) -> jax.Array:
        """Returns one vector per sequence, `[batch, embed_dim]`; finite even without any valid token."""
        if valid is None:
            valid = jnp.ones(hidden.shape[:2], bool)
        if self.config.pooling == "mean":
            total = jnp.where(valid[:, :, None], hidden.astype(jnp.float32), 0.0).sum(axis=1)
            return total / jnp.maximum(valid.sum(axis=1), 1)[:, None]
        if self.config.pooling == "first":
            return _select(hidden, jnp.argmax(valid, axis=1))
        from_the_end = jnp.argmax(valid[:, ::-1], axis=1)
        return _select(hidden, hidden.shape[1] - 1 - from_the_end)


def _select(hidden: jax.Array, index: jax.Array) -> jax.Array:
    """Selects the token at `index` `[batch] int32` of each sequence, `[batch, embed_dim]`."""
    return jnp.take_along_axis(hidden, index[:, None, None], axis=1)[:, 0]
