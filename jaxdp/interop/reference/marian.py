"""Reference forward pass of Marian."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdp.interop.reference.layers import ACTIVATIONS, Read, attend, heads, layer_norm, linear

EPSILON = 1e-5


def marian(
    read: Read, config: Mapping[str, Any], has: set[str], tokens: np.ndarray, valid: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Computes the logits for the targets; see `jaxdp.interop.reference.forward`."""
    base = "model." if any(name.startswith("model.") for name in has) else ""
    names = [f"{base}{each}.weight" for each in ("shared", "encoder.embed_tokens", "decoder.embed_tokens")]
    table = read(next(name for name in (*names, "lm_head.weight") if name in has))
    scale = table.shape[1] ** 0.5 if config.get("scale_embedding", False) else 1.0

    def embed(stack, ids):
        name, length = f"{base}{stack}.embed_positions.weight", ids.shape[1]
        positions = read(name)[:length] if name in has else _positions(length, table.shape[1])
        return table[ids] * scale + positions

    source_allowed, length = valid[:, None, None, :], targets.shape[1]
    hidden = embed("encoder", tokens)
    for layer in range(config.get("encoder_layers", 12)):
        hidden = _layer(read, config, f"{base}encoder.layers.{layer}", hidden, source_allowed)
    x, causal = embed("decoder", targets), np.tril(np.ones((length, length), bool))[None, None]
    for layer in range(config.get("decoder_layers", 12)):
        x = _layer(read, config, f"{base}decoder.layers.{layer}", x, causal, hidden, source_allowed)
    return x @ table.T + read("final_logits_bias")[0]


def _layer(read, config, name, x, allowed, encoder_output=None, source_allowed=None) -> np.ndarray:
    """Computes a layer of the encoder or decoder."""
    act, num_heads = ACTIVATIONS[config.get("activation_function", "gelu")], config.get("encoder_attention_heads", 16)

    def attention(x, other, each, allowed):
        q, k, v = (
            heads(linear(source, read, f"{name}.{each}.{part}_proj"), num_heads)
            for source, part in ((x, "q"), (other, "k"), (other, "v"))
        )
        y = linear(attend(q, k, v, allowed, scale=q.shape[-1] ** -0.5), read, f"{name}.{each}.out_proj")
        return layer_norm(x + y, read, f"{name}.{each}_layer_norm", EPSILON)

    x = attention(x, x, "self_attn", allowed)
    if encoder_output is not None:
        x = attention(x, encoder_output, "encoder_attn", source_allowed)
    y = linear(act(linear(x, read, f"{name}.fc1")), read, f"{name}.fc2")
    return layer_norm(x + y, read, f"{name}.final_layer_norm", EPSILON)


def _positions(length: int, width: int) -> np.ndarray:
    """Returns sinusoidal positions: sines in the first half of the features, cosines in the second."""
    angles = np.outer(np.arange(length), 10000.0 ** (-2 * np.arange(width // 2) / width))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
