"""Layers of a block: dense layer, normalization (LayerNorm, RMSNorm), activations, MLP and value embedding."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdp.model.config import TransformerConfig
from jaxdp.model.lora import LORA_A, LORA_B, Lora
from jaxdp.model.products import matmul


class Dense(nn.Module):
    """Dense layer, `inputs @ kernel + bias`, computed on `[batch * length, features]`.

    The flat shape matters on XLA:CPU, where the backward pass of a rank-3 product takes
    twice as long.
    """

    in_dim: int
    out_dim: int
    use_bias: bool
    dtype: str
    platform: str  # platform of the devices
    stddev: float  # standard deviation of the initial kernel
    lora: Lora | None = None  # low-rank adapter

    def setup(self):
        init = nn.initializers.normal(self.stddev)
        self.kernel = self.param("kernel", init, (self.in_dim, self.out_dim), jnp.float32)
        if self.use_bias:
            self.bias = self.param("bias", nn.initializers.zeros, (self.out_dim,), jnp.float32)
        if self.lora:
            # Uniform between `-1 / sqrt(in_dim)` and `1 / sqrt(in_dim)`.
            uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
            self.lora_a = self.param(LORA_A, uniform, (self.in_dim, self.lora.rank), jnp.float32)
            self.lora_b = self.param(LORA_B, nn.initializers.zeros, (self.lora.rank, self.out_dim), jnp.float32)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[..., in_dim]` to `[..., out_dim]` in `dtype`."""
        flat = inputs.reshape(-1, self.in_dim).astype(self.dtype)
        outputs = matmul(flat, self.kernel.astype(self.dtype), self.platform)
        if self.lora:
            low = matmul(flat, self.lora_a.astype(self.dtype), self.platform)
            outputs = outputs + self.lora.factor * matmul(low, self.lora_b.astype(self.dtype), self.platform)
        if self.use_bias:
            outputs = outputs + self.bias.astype(self.dtype)[None, :]
        return outputs.reshape(*inputs.shape[:-1], self.out_dim)


class ValueEmbedding(nn.Module):
    """Learned embedding of the token, times a learned factor, for the values of one attention layer."""

    vocab_size: int
    num_features: int
    stddev: float  # standard deviation of the initial embedding
    dtype: str

    def setup(self):
        init = nn.initializers.normal(self.stddev)
        self.embedding = self.param("embedding", init, (self.vocab_size, self.num_features), jnp.float32)
        self.scalar = self.param("scalar", nn.initializers.ones, (), jnp.float32)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens `[batch, length] int32` to `[batch, length, num_features]`; NaN outside the vocabulary."""
        return (self.scalar * jnp.take(self.embedding, tokens, axis=0, mode="fill")).astype(self.dtype)


def bounded(values: jax.Array, softcap: float) -> jax.Array:
    """Bounds values smoothly, `softcap * tanh(values / softcap)`; 0: no bound.

    Source: Gemma Team 2024 (Gemma 2), section 2.
    """
    return softcap * jnp.tanh(values / softcap) if softcap else values


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last axis, with statistics in float32.

    Source: Ba et al. 2016, section 3 (LayerNorm); Zhang and Sennrich 2019, section 4
    (RMSNorm: no mean subtraction, no bias).
    """

    kind: str
    epsilon: float  # added to the variance
    use_bias: bool
    dtype: str
    offset: float = 0.0  # added to the learned scale

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[..., features]` to the same shape in `dtype`."""
        shape = (1,) * (inputs.ndim - 1) + (-1,)
        values = inputs.astype(jnp.float32)
        if self.kind == "layernorm":
            values = values - values.mean(axis=-1, keepdims=True)
        variance = jnp.square(values).mean(axis=-1, keepdims=True)
        values = values * jax.lax.rsqrt(variance + self.epsilon)
        init = nn.initializers.constant(1 - self.offset)
        scale = self.param("scale", init, inputs.shape[-1:], jnp.float32).reshape(shape)
        values = values * (self.offset + scale if self.offset else scale)
        if self.kind == "layernorm" and self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, inputs.shape[-1:], jnp.float32)
            values = values + bias.reshape(shape)
        return values.astype(self.dtype)


def make_norm(config: TransformerConfig) -> Norm:
    """Builds a norm layer with the settings of the model."""
    return Norm(config.norm, config.norm_epsilon, config.use_bias, config.dtype, config.norm_offset)


def gelu(values: jax.Array) -> jax.Array:
    """Computes the exact GELU, `x * Phi(x)`, from erf.

    `jax.nn.gelu` uses erfc, which made a step 25 % slower on XLA:CPU. Both agree to
    float32 rounding.

    Source: Hendrycks and Gimpel 2016, section 2.
    """
    return 0.5 * values * (1 + jax.lax.erf(values * math.sqrt(0.5)))


ACTIVATIONS = {
    "gelu": gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "relu2": lambda values: jnp.square(jax.nn.relu(values)),  # Source: So et al. 2021 (Primer)
    "silu": jax.nn.silu,
}
GATE_ACTIVATIONS = {
    "swiglu": jax.nn.silu,
    "geglu": gelu,
    "geglu_tanh": ACTIVATIONS["gelu_tanh"],
}
"""Activation of the gate by the name of the gated unit. Source: Shazeer 2020, section 2."""


def elementwise_activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the function of an activation; of a gated unit, that of its gate."""
    return GATE_ACTIVATIONS[name] if name in GATE_ACTIVATIONS else ACTIVATIONS[name]


class MLP(nn.Module):
    """Feed-forward network: up projection, activation, down projection; a gated unit adds a gate projection."""

    config: TransformerConfig
    branch_stddev: float  # standard deviation of the initial down projection

    def setup(self):
        config = self.config
        dense = functools.partial(Dense, use_bias=config.use_bias, dtype=config.dtype, platform=config.platform)
        self.up = dense(config.embed_dim, config.mlp_dim, stddev=config.init_stddev, lora=config.lora("mlp/up"))
        if config.activation in GATE_ACTIVATIONS:
            self.gate = dense(config.embed_dim, config.mlp_dim, stddev=config.init_stddev, lora=config.lora("mlp/gate"))
        self.down = dense(config.mlp_dim, config.embed_dim, stddev=self.branch_stddev, lora=config.lora("mlp/down"))

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps `[batch, length, embed_dim]` to the same shape."""
        activation = elementwise_activation(self.config.activation)
        if self.config.activation in GATE_ACTIVATIONS:
            return self.down(self.up(inputs) * activation(self.gate(inputs)))
        return self.down(activation(self.up(inputs)))
