"""Reference forward pass of ModernBERT with its heads."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdp.interop.reference.layers import ACTIVATIONS, Read, attend, heads, layer_norm, linear
from jaxdp.interop.reference.rope import rotate, rotations


def modernbert(
    read: Read, config: Mapping[str, Any], has: set[str], tokens: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Computes the logits of the head; see `jaxdp.interop.reference.forward`."""
    base = "model." if any(name.startswith("model.") for name in has) else ""
    act, epsilon = ACTIVATIONS[config.get("hidden_activation", "gelu")], config.get("norm_eps", 1e-5)
    num_heads, length = config.get("num_attention_heads", 12), tokens.shape[1]

    def norm(x, name):
        return layer_norm(x, read, name, epsilon, bias=False)

    words = f"{base}embeddings.tok_embeddings.weight"
    table = read(words if words in has else "decoder.weight")
    x = norm(table[tokens], f"{base}embeddings.norm")
    distance = np.abs(np.arange(length)[:, None] - np.arange(length))
    for layer in range(config.get("num_hidden_layers", 22)):
        name, (window, theta) = f"{base}layers.{layer}", _kind(config, layer)
        y = norm(x, f"{name}.attn_norm") if layer else x
        q, k, v = (heads(each, num_heads) for each in np.split(linear(y, read, f"{name}.attn.Wqkv", bias=False), 3, -1))
        tables = rotations(_parameters(theta), q.shape[-1], length)
        allowed = (distance <= window) & valid[:, None, None, :]
        y = attend(rotate(q, tables), rotate(k, tables), v, allowed, scale=q.shape[-1] ** -0.5)
        x = x + linear(y, read, f"{name}.attn.Wo", bias=False)
        gate, up = np.split(linear(norm(x, f"{name}.mlp_norm"), read, f"{name}.mlp.Wi", bias=False), 2, -1)
        x = x + linear(act(gate) * up, read, f"{name}.mlp.Wo", bias=False)
    x = norm(x, f"{base}final_norm")
    if config["architectures"][0] == "ModernBertModel":
        return x
    if config["architectures"][0] == "ModernBertForSequenceClassification":
        if config.get("classifier_pooling", "cls") == "mean":
            x = (x * valid[:, :, None]).sum(1) / valid.sum(1)[:, None]
        else:
            x = x[:, 0]
    x = norm(act(linear(x, read, "head.dense", bias=False)), "head.norm")
    if config["architectures"][0] == "ModernBertForSequenceClassification":
        return linear(x, read, "classifier")
    logits = x @ (table if config.get("tie_word_embeddings", True) else read("decoder.weight")).T
    return logits + read("decoder.bias") if config.get("decoder_bias", True) else logits


def _kind(config: Mapping[str, Any], layer: int) -> tuple[int, float]:
    """Returns the largest distance that a layer sees, and the base of its rotary positions."""
    kinds = config.get("layer_types")
    every = config.get("global_attn_every_n_layers", 3)
    is_full = kinds[layer] == "full_attention" if kinds else layer % every == 0
    name, key, default = (
        ("full_attention", "global_rope_theta", 160000.0)
        if is_full
        else ("sliding_attention", "local_rope_theta", 10000.0)
    )
    own = ((config.get("rope_parameters") or {}).get(name) or {}).get("rope_theta")
    window = 10**9 if is_full else config.get("local_attention", 128) // 2
    return window, own or config.get(key, default)


def _parameters(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 1.0}
