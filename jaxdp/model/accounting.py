"""Sizes of a model and the arithmetic of training it, before anything is allocated."""

import jax
import jax.numpy as jnp

from jaxdp.model.config import StackConfig, TransformerConfig
from jaxdp.model.transformer import Transformer
from jaxdp.trees import named_leaves, num_elements
from jaxdp.typing import PyTree


def init_params(config: TransformerConfig, key: jax.Array) -> PyTree:
    """New parameters, drawn from a typed PRNG key."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    target = {"target_tokens": tokens} if config.has_source else {}
    return Transformer(config).init(key, tokens, **target)["params"]


def parameter_shapes(config: TransformerConfig) -> PyTree:
    """The parameter tree as `jax.ShapeDtypeStruct`s; computes nothing."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def num_parameters(config: TransformerConfig) -> int:
    """Trainable numbers; a tied embedding counts once."""
    return num_elements(parameter_shapes(config))


def min_parameters(config: TransformerConfig) -> int:
    """A lower bound of the number of parameters, by arithmetic: of a giant model the tree itself takes too long.

    Counts the embeddings of tokens and learned positions, and in each layer the query and output projections and the MLP.
    """
    layer = 2 * config.embed_dim**2 + 2 * config.embed_dim * config.mlp_dim
    num_layers = config.num_layers + (config.num_decoder_layers if config.has_source else 0)
    num_positions = config.max_length if config.positions == "learned" else 0
    return (config.vocab_size + num_positions) * config.embed_dim + num_layers * layer


def flops_per_row(
    config: TransformerConfig,
    length: int,
    *,
    target_length: int | None = None,
    num_predicted: int | None = None,
) -> int:
    """Floating-point operations of forward and backward pass for one row.

    Six for every parameter and every vector that it is multiplied by: those of a
    layer by the tokens that pass through it, the output layer (tied or not) by the
    tokens that are predicted; tables that are only looked up do not count. And
    `12 H Q` in each attention for every pair of a query and a key; H is `num_heads`,
    Q `head_dim`. What remat recomputes is not counted, so the share of the peak
    (MFU) measures progress, not work; nor is the half that causality would save
    taken off.

    Source: Chowdhery et al. 2022 (PaLM), appendix B, for a decoder: `6N + 12 L H Q T`
    a token.

    Args:
        config: The model.
        length: Tokens of the row; in an encoder-decoder of the source.
        target_length: Tokens of the target, in an encoder-decoder.
        num_predicted: Tokens that scores of the vocabulary are computed for; None: all.
    """
    written = target_length if config.has_source else length
    if written is None:
        raise ValueError("an encoder-decoder needs target_length")
    num_predicted = written if num_predicted is None else num_predicted
    shapes = parameter_shapes(config)
    multiplied = 0
    for name, leaf in named_leaves(shapes):
        multiplied += num_elements(leaf) * _num_vectors(name, length, written, num_predicted)
    if config.head != "classification" and config.tie_embeddings:
        multiplied += config.output_vocab_size * config.embed_dim * num_predicted
    pairs = 0
    for stack, tokens in _stacks(config, length, written):
        keys = tokens + (length if stack.cross_attention else 0)
        pairs += stack.num_layers * tokens * keys
    return 6 * multiplied + 12 * config.num_heads * config.head_dim * pairs


def flops_per_token(config: TransformerConfig, length: int, **sizes: int | None) -> float:
    """`flops_per_row` divided by the `length` tokens that the row was read from."""
    return flops_per_row(config, length, **sizes) / length


def _num_vectors(name: str, read: int, written: int, num_predicted: int) -> int:
    """How many vectors of a row a parameter is multiplied by."""
    parts = name.split("/")
    if parts[-1].endswith("embedding"):
        return 0
    if parts[0] == "classifier":
        return 1
    if parts[0] in ("masked_lm", "output", "output_bias"):
        return num_predicted
    if parts[0] == "encoder":
        return read
    # Keys and values of the source are made once for each of its tokens.
    of_source = "cross_attention" in parts and parts[-2] in ("key", "value")
    return read if of_source else written


def _stacks(config: TransformerConfig, read: int, written: int) -> list[tuple[StackConfig, int]]:
    """Every stack with the tokens that pass through it."""
    if config.has_source:
        return [(config.encoder, read), (config.decoder, written)]
    return [(config.decoder if config.architecture == "decoder" else config.encoder, written)]
