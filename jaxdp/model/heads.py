"""Model heads for masked language modelling and classification."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdp.model.config import TransformerConfig
from jaxdp.model.dropout import dropout
from jaxdp.model.layers import Dense, elementwise_activation, make_norm


class MaskedLMHead(nn.Module):
    """Transform of hidden states before the output embedding: dense layer, activation, norm.

    Source: Devlin et al. 2019 (BERT), released code.
    """

    config: TransformerConfig

    def setup(self):
        config = self.config
        width, stddev = config.embed_dim, config.init_stddev
        self.dense = Dense(width, width, config.use_bias, config.dtype, stddev=stddev)
        self.norm = make_norm(config)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Maps `[batch, length, embed_dim]` to the same shape."""
        return self.norm(elementwise_activation(self.config.activation)(self.dense(hidden)))


class Classifier(nn.Module):
    """Classification head: pooling over the valid tokens of a sequence, dropout and a dense layer.

    Pooling "first" passes the first token through a dense layer with tanh, as BERT's
    pooler does. Pooling "mean" and "last" use the hidden states directly.

    Source: Devlin et al. 2019, section 3.2 (first); Radford et al. 2018, section 3.2 (last).
    """

    config: TransformerConfig

    def setup(self):
        config = self.config
        width, stddev = config.embed_dim, config.init_stddev
        if config.pooling == "first":
            self.pooler = Dense(width, width, True, config.dtype, stddev=stddev)
        # Class scores are logits, and logits are always float32.
        self.output = Dense(width, config.num_labels, True, "float32", stddev=stddev)

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
        pooled = self._pool(hidden, attention_mask)
        pooled = dropout(pooled, row_keys, rate=self.config.dropout_rate, layer=0, site="classifier")
        return self.output(pooled)

    def _pool(self, hidden: jax.Array, valid: jax.Array | None) -> jax.Array:
        """Returns one vector per sequence, `[batch, embed_dim]`; finite even without any valid token."""
        if valid is None:
            valid = jnp.ones(hidden.shape[:2], bool)
        if self.config.pooling == "mean":
            total = jnp.where(valid[:, :, None], hidden.astype(jnp.float32), 0.0).sum(axis=1)
            return total / jnp.maximum(valid.sum(axis=1), 1)[:, None]
        if self.config.pooling == "first":
            return jnp.tanh(self.pooler(_select(hidden, jnp.argmax(valid, axis=1))))
        from_the_end = jnp.argmax(valid[:, ::-1], axis=1)
        return _select(hidden, hidden.shape[1] - 1 - from_the_end)


def _select(hidden: jax.Array, index: jax.Array) -> jax.Array:
    """Selects the token at `index` `[batch] int32` of each sequence, `[batch, embed_dim]`."""
    return jnp.take_along_axis(hidden, index[:, None, None], axis=1)[:, 0]
