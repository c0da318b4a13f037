"""Sizes of a model and the arithmetic of training it, before anything is allocated."""

import jax
import jax.numpy as jnp

from jaxdp.model.config import TransformerConfig
from jaxdp.model.transformer import Transformer
from jaxdp.trees import num_elements
from jaxdp.typing import PyTree


def parameter_shapes(config: TransformerConfig) -> PyTree:
    """The parameter tree as `jax.ShapeDtypeStruct`s; computes nothing."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens)["params"]


def num_parameters(config: TransformerConfig) -> int:
    """Trainable numbers; a tied embedding counts once."""
    return num_elements(parameter_shapes(config))


def flops_per_token(config: TransformerConfig, length: int) -> int:
    """Floating-point operations of forward and backward pass for one token: `6N + 12 L H Q T`.

    N counts the parameters that a token is multiplied by: all of them, the output
    layer included (tied or not), except tables that are only looked up. L is
    `num_layers`, H `num_heads`, Q `head_dim`, T `length`. What remat recomputes is
    not counted, so the share of the peak (MFU) measures progress, not work; nor is
    the half that causality would save taken off.

    Source: Chowdhery et al. 2022 (PaLM), appendix B.

    Args:
        config: The model.
        length: Tokens in a row.
    """
    shapes = parameter_shapes(config)
    looked_up = [shapes["position_embedding"]] if config.positions == "learned" else []
    if not config.tie_embeddings:
        looked_up.append(shapes["token_embedding"])
    multiplied = num_elements(shapes) - num_elements(looked_up)
    return 6 * multiplied + 12 * config.num_layers * config.num_heads * config.head_dim * length
