"""Model size and FLOPs: parameter shapes, parameter counts and training FLOPs per sequence."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxdp.model.config import StackConfig, TransformerConfig
from jaxdp.model.transformer import Transformer
from jaxdp.trees import named_leaves, num_elements
from jaxdp.typing import PyTree


def init_params(config: TransformerConfig, key: jax.Array) -> PyTree:
    """Initialises the parameters from a typed PRNG key."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    target: dict[str, Any] = {"target_tokens": tokens} if config.has_source else {}
    return Transformer(config).init(key, tokens, **target)["params"]


def parameter_shapes(config: TransformerConfig) -> PyTree:
    """Returns the parameter tree as `jax.ShapeDtypeStruct`s, without computing it; a tree of the caller's own."""
    return jax.tree.map(lambda leaf: leaf, _traced_shapes(config))


@functools.lru_cache(maxsize=64)
def _traced_shapes(config: TransformerConfig) -> PyTree:
    """Traces the initialisation, which takes 50 to 90 ms; a run asks for the shapes five times."""
    return jax.eval_shape(lambda: init_params(config, jax.random.key(0)))


def num_parameters(config: TransformerConfig) -> int:
    """Counts the parameters; a tied embedding counts once."""
    return num_elements(parameter_shapes(config))


def min_parameters(config: TransformerConfig) -> int:
    """Returns a lower bound of the number of parameters, for models whose tree takes too long to build.

    Counts the token, position and value embeddings, and the query and output projections and the MLP of each layer.
    """
    layer = 2 * config.embed_dim * (config.num_heads * config.head_dim + config.mlp_dim)
    num_layers = config.num_layers + (config.num_decoder_layers if config.has_source else 0)
    num_positions = config.max_length if config.positions == "learned" else 0
    num_tables = (config.num_layers + 1) // 2 if config.value_embeddings else 0
    values = num_tables * config.vocab_size * config.num_kv_heads * config.head_dim
    return (config.vocab_size + num_positions) * config.embed_dim + values + num_layers * layer


def flops_per_sequence(
    config: TransformerConfig,
    length: int,
    *,
    target_length: int | None = None,
    num_predicted: int | None = None,
) -> int:
    """Computes the FLOPs of forward and backward pass for one sequence.

    The count is 6 per parameter and token that it is applied to, plus `12 H Q` per
    query-key pair of each attention, where H is `num_heads` and Q is `head_dim`. The output
    layer (tied or not) applies to predicted tokens only; embedding lookups count as 0.
    Recomputation by remat is not counted, so that MFU measures useful work. The half that
    causal masking could save is counted; keys outside `attention_window` are not.

    Source: Chowdhery et al. 2022 (PaLM), appendix B, for a decoder: `6N + 12 L H Q T`
    per token.

    Args:
        config: Model configuration.
        length: Number of tokens; of the source in an encoder-decoder.
        target_length: Number of target tokens in an encoder-decoder.
        num_predicted: Number of tokens that logits are computed for; None: all.
    """
    output_length = target_length if config.has_source else length
    if output_length is None:
        raise ValueError("an encoder-decoder needs target_length")
    num_predicted = output_length if num_predicted is None else num_predicted
    shapes = parameter_shapes(config)
    multiplied = 0
    for name, leaf in named_leaves(shapes):
        multiplied += num_elements(leaf) * _num_tokens(name, length, output_length, num_predicted)
    if config.head not in ("classification", "none") and config.tie_embeddings:
        multiplied += config.output_vocab_size * config.embed_dim * num_predicted
    pairs = 0
    for stack, tokens in _stacks(config, length, output_length):
        num_windowed = sum(config.is_windowed(layer) for layer in range(stack.num_layers))
        keys = num_windowed * min(tokens, _window_keys(config, stack)) + (stack.num_layers - num_windowed) * tokens
        pairs += tokens * (keys + (stack.num_layers * length if stack.cross_attention else 0))
    return 6 * multiplied + 12 * config.num_heads * config.head_dim * pairs


def _window_keys(config: TransformerConfig, stack: StackConfig) -> int:
    """Returns the number of keys in the window of a token."""
    return config.attention_window if stack.causal else 2 * config.attention_window - 1


def flops_per_token(config: TransformerConfig, length: int, **sizes: int | None) -> float:
    """Returns `flops_per_sequence` divided by `length`."""
    return flops_per_sequence(config, length, **sizes) / length


def _num_tokens(name: str, length: int, output_length: int, num_predicted: int) -> int:
    """Returns the number of tokens of a sequence that a parameter is applied to."""
    parts = name.split("/")
    if parts[-1].endswith("embedding"):
        return 0
    if parts[0] == "classifier":
        return 1
    if parts[0] in ("masked_lm", "output", "output_bias"):
        return num_predicted
    if parts[0] == "encoder":
        return length
    # Cross-attention computes keys and values once per source token.
    is_source_projection = "cross_attention" in parts and parts[-2] in ("key", "key_norm", "value")
    return length if is_source_projection else output_length


def _stacks(config: TransformerConfig, length: int, output_length: int) -> list[tuple[StackConfig, int]]:
    """Returns every stack with its number of tokens."""
    if config.has_source:
        return [(config.encoder, length), (config.decoder, output_length)]
    return [(config.decoder if config.architecture == "decoder" else config.encoder, output_length)]
