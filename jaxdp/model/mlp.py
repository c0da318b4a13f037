"""The feed-forward part of a block."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdp.model.config import TransformerConfig
from jaxdp.model.dense import Dense


def gelu(values: jax.Array) -> jax.Array:
    """Exact GELU, `x * Phi(x)`.

    By erf: `jax.nn.gelu` goes through erfc, which made a step a quarter slower on
    XLA:CPU; both agree to float32's rounding of x.

    Source: Hendrycks and Gimpel 2016, section 2.
    """
    return 0.5 * values * (1 + jax.lax.erf(values * math.sqrt(0.5)))


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "relu2": lambda values: jnp.square(jax.nn.relu(values)),  # Source: So et al. 2021 (Primer)
    "swiglu": jax.nn.silu,  # of the gate. Source: Shazeer 2020
}


class MLP(nn.Module):
    """Widen, apply the activation, narrow; swiglu multiplies by a second projection."""

    config: TransformerConfig
    branch_stddev: float  # of the new kernel that joins the residual stream

    def setup(self):
        config = self.config
        dense = functools.partial(Dense, use_bias=config.use_bias, dtype=config.dtype)
        self.up = dense(config.embed_dim, config.mlp_dim, stddev=config.init_stddev)
        if config.activation == "swiglu":
            self.gate = dense(config.embed_dim, config.mlp_dim, stddev=config.init_stddev)
        self.down = dense(config.mlp_dim, config.embed_dim, stddev=self.branch_stddev)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Map `[batch, length, embed_dim]` to the same shape."""
        activation = ACTIVATIONS[self.config.activation]
        if self.config.activation == "swiglu":
            return self.down(self.up(inputs) * activation(self.gate(inputs)))
        return self.down(activation(self.up(inputs)))
