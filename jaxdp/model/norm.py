"""Layer and root-mean-square normalisation over the last axis."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Norm(nn.Module):
    """Normalise each token's features; statistics in float32.

    Source: Ba et al. 2016, section 3 (layernorm); Zhang and Sennrich 2019,
    section 4 (rmsnorm, which neither subtracts the mean nor has a bias).
    """

    kind: str
    epsilon: float  # added to the variance
    use_bias: bool
    dtype: str

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Map `[batch, length, embed_dim]` to the same shape in `dtype`."""
        shape = (1,) * (inputs.ndim - 1) + (-1,)
        values = inputs.astype(jnp.float32)
        if self.kind == "layernorm":
            values = values - values.mean(axis=-1, keepdims=True)
        variance = jnp.square(values).mean(axis=-1, keepdims=True)
        values = values * jax.lax.rsqrt(variance + self.epsilon)
        scale = self.param("scale", nn.initializers.ones, inputs.shape[-1:], jnp.float32)
        values = values * scale.reshape(shape)
        if self.kind == "layernorm" and self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, inputs.shape[-1:], jnp.float32)
            values = values + bias.reshape(shape)
        return values.astype(self.dtype)
