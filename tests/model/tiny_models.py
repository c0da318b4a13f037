"""Small configurations and parameters that are random everywhere, biases and norms too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.model import Transformer, model_config, parameter_shapes

VOCAB_SIZE, LENGTH = 13, 8

SIZES = {"vocab_size", "target_vocab_size", "max_length", "max_target_length", "num_labels"}
ARGUMENTS = SIZES | {"head", "pooling", "platform"}

UNOPTIMISED = {"xla_backend_optimization_level": 0}
"""Compiler options that skip LLVM's optimisations: compiling is nearly all that these tests do."""

quick_jit = functools.partial(jax.jit, compiler_options=UNOPTIMISED)


def tiny_config(**overrides):
    """Builds a model of two layers, four heads and width 16; other arguments of `model_config` are passed on."""
    shapes = {"num_layers": 2, "num_heads": 4, "embed_dim": 16, "mlp_dim": 24}
    sizes = {"vocab_size": VOCAB_SIZE, "max_length": LENGTH}
    sizes |= {key: overrides.pop(key) for key in ARGUMENTS & overrides.keys()}
    return model_config("nano", shapes | overrides, **sizes)


def random_params(config, seed=0):
    """Every leaf normal, large enough that no part of the model is negligible."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(0, 0.3, leaf.shape) + (leaf.ndim == 1), jnp.float32),
        parameter_shapes(config),
    )


def random_tokens(batch=2, length=LENGTH, seed=1):
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCAB_SIZE, (batch, length)), jnp.int32)


def jitted(config, **options):
    """`apply(params, tokens, **inputs)`, compiled; a `method` but `__call__` is an option."""
    model = Transformer(config)
    return quick_jit(lambda params, tokens, **inputs: model.apply({"params": params}, tokens, **inputs, **options))
