"""What stands on the last layer: masked language modelling and classification."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdp.model.block import make_norm
from jaxdp.model.config import TransformerConfig
from jaxdp.model.dense import Dense
from jaxdp.model.dropout import dropout
from jaxdp.model.mlp import ACTIVATIONS


class MaskedLMHead(nn.Module):
    """The transformation of hidden states before they meet the vocabulary.

    Source: Devlin et al. 2019 (BERT), in its released code.
    """

    config: TransformerConfig

    def setup(self):
        config = self.config
        width, stddev = config.embed_dim, config.init_stddev
        self.dense = Dense(width, width, config.use_bias, config.dtype, stddev=stddev)
        self.norm = make_norm(config)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Map `[batch, length, embed_dim]` to the same shape."""
        return self.norm(ACTIVATIONS[self.config.activation](self.dense(hidden)))


class Classifier(nn.Module):
    """Scores of a whole row from the hidden states of its valid tokens.

    The first token goes through a dense layer with tanh, as BERT's pooler; the mean
    and the last token are read as they are.

    Source: Devlin et al. 2019, section 3.2 (first); Radford et al. 2018, section 3.2
    (last).
    """

    config: TransformerConfig

    def setup(self):
        config = self.config
        width, stddev = config.embed_dim, config.init_stddev
        if config.pooling == "first":
            self.pooler = Dense(width, width, True, config.dtype, stddev=stddev)
        # Scores are float32, as logits are.
        self.output = Dense(width, config.num_labels, True, "float32", stddev=stddev)

    def __call__(
        self, hidden: jax.Array, attention_mask: jax.Array | None, row_keys: jax.Array | None
    ) -> jax.Array:
        """Classify rows.

        Args:
            hidden: `[batch, length, embed_dim]`.
            attention_mask: `[batch, length] bool`, True = valid, padding on either
                side; None: all valid.
            row_keys: `[batch]` typed PRNG keys of dropout, or None.

        Returns:
            `[batch, num_labels] float32`.
        """
        pooled = self._pool(hidden, attention_mask)
        drop = dropout(pooled, row_keys, rate=self.config.dropout_rate, layer=0, site="classifier")
        return self.output(drop)

    def _pool(self, hidden: jax.Array, valid: jax.Array | None) -> jax.Array:
        """One vector a row, `[batch, embed_dim]`; of a row without a valid token, any finite one."""
        if valid is None:
            valid = jnp.ones(hidden.shape[:2], bool)
        if self.config.pooling == "mean":
            total = jnp.where(valid[:, :, None], hidden.astype(jnp.float32), 0.0).sum(axis=1)
            return total / jnp.maximum(valid.sum(axis=1), 1)[:, None]
        if self.config.pooling == "first":
            return jnp.tanh(self.pooler(_pick(hidden, jnp.argmax(valid, axis=1))))
        from_the_end = jnp.argmax(valid[:, ::-1], axis=1)
        return _pick(hidden, hidden.shape[1] - 1 - from_the_end)


def _pick(hidden: jax.Array, index: jax.Array) -> jax.Array:
    """The token `index` `[batch] int32` of each row, `[batch, embed_dim]`."""
    return jnp.take_along_axis(hidden, index[:, None, None], axis=1)[:, 0]
