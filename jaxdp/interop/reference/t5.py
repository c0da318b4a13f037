"""Reference forward pass of T5 and mT5."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdp.interop.reference.layers import ACTIVATIONS, Read, attend, heads, linear, rms_norm

PROJECTIONS = {"gated-gelu": "gelu_new"}
"""feed_forward_proj -> activation where its name is another."""


def t5(
    read: Read,
    config: Mapping[str, Any],
    has: set[str],
    tokens: np.ndarray,
    valid: np.ndarray,
    targets: np.ndarray | None = None,
) -> np.ndarray:
    """Computes the logits for the targets, or the hidden states of the encoder without them; see `jaxdp.interop.reference.forward`."""
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    table = read(next(name for name in names if name in has))
    layers, is_t5 = config.get("num_layers", 6), config["model_type"] == "t5"
    hidden = _stack(read, config, "encoder", layers, table[tokens], valid[:, None, None, :])
    if targets is None:
        return hidden
    decoder_layers = config.get("num_decoder_layers") or layers
    length = targets.shape[1]
    causal = np.tril(np.ones((length, length), bool))[None, None]
    x = _stack(read, config, "decoder", decoder_layers, table[targets], causal, hidden, valid[:, None, None, :])
    is_scaled = config.get("scale_decoder_outputs")
    if is_t5 and (config.get("tie_word_embeddings") is not False if is_scaled is None else is_scaled):
        return x * table.shape[1] ** -0.5 @ table.T
    return x @ (read("lm_head.weight") if "lm_head.weight" in has else table).T


def _stack(read, config, name, num_layers, x, allowed, encoder_output=None, source_allowed=None) -> np.ndarray:
    """Computes the hidden states of the encoder or decoder."""
    epsilon, num_heads = config.get("layer_norm_epsilon", 1e-6), config.get("num_heads", 8)

    def norm(x, each):
        return rms_norm(x, read(f"{each}.layer_norm.weight"), epsilon)

    def attention(x, other, each, allowed, bias):
        q, k, v = (
            heads(linear(source, read, f"{each}.{part}", bias=False), num_heads)
            for source, part in ((x, "q"), (other, "k"), (other, "v"))
        )
        return linear(attend(q, k, v, allowed, scale=1.0, bias=bias), read, f"{each}.o", bias=False)

    biases = read(f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    bias = biases[_buckets(config, x.shape[1], is_decoder=name == "decoder")].transpose(2, 0, 1)[None]
    for layer in range(num_layers):
        block = f"{name}.block.{layer}.layer"
        y = norm(x, f"{block}.0")
        x = x + attention(y, y, f"{block}.0.SelfAttention", allowed, bias)
        if encoder_output is not None:
            y = norm(x, f"{block}.1")
            x = x + attention(y, encoder_output, f"{block}.1.EncDecAttention", source_allowed, 0.0)
        last = f"{block}.{1 if encoder_output is None else 2}"
        x = x + _mlp(read, config, f"{last}.DenseReluDense", norm(x, last))
    return rms_norm(x, read(f"{name}.final_layer_norm.weight"), epsilon)


def _mlp(read: Read, config: Mapping[str, Any], name: str, x: np.ndarray) -> np.ndarray:
    default = "gated-gelu" if config["model_type"] == "mt5" else "relu"
    projection = str(config.get("feed_forward_proj", default))
    act = ACTIVATIONS[PROJECTIONS.get(projection, projection.removeprefix("gated-"))]
    if projection.startswith("gated-"):
        hidden = act(linear(x, read, f"{name}.wi_0", bias=False)) * linear(x, read, f"{name}.wi_1", bias=False)
    else:
        hidden = act(linear(x, read, f"{name}.wi", bias=False))
    return linear(hidden, read, f"{name}.wo", bias=False)


def _buckets(config: Mapping[str, Any], length: int, *, is_decoder: bool) -> np.ndarray:
    """Returns the bucket of each pair of query and key, `[length, length]`."""
    count = config.get("relative_attention_num_buckets", 32)
    longest = config.get("relative_attention_max_distance", 128)
    found = np.zeros((length, length), int)
    for query in range(length):
        for key in range(length):
            distance, num_buckets, first = query - key, count, 0
            if is_decoder:
                distance = max(distance, 0)
            else:
                num_buckets //= 2
                first, distance = (num_buckets if distance < 0 else 0), abs(distance)
            exact = num_buckets // 2
            if distance >= exact:
                share = math.log(distance / exact) / math.log(longest / exact)
                distance = min(exact + int(share * (num_buckets - exact) + 1e-9), num_buckets - 1)
            found[query, key] = first + distance
    return found
