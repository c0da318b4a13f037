"""Reference forward pass of Gemma 3 with its heads."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdp.interop.reference.layers import ACTIVATIONS, Read, attend, linear, rms_norm
from jaxdp.interop.reference.llama import causal
from jaxdp.interop.reference.rope import rotate, rotations


def gemma3(read: Read, config: Mapping[str, Any], has: set[str], tokens: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Computes the logits of the head; see `jaxdp.interop.reference.forward`."""
    base = "model." if any(name.startswith("model.") for name in has) else ""
    act, epsilon = ACTIVATIONS[config.get("hidden_activation", "gelu_pytorch_tanh")], config.get("rms_norm_eps", 1e-6)
    head_dim, length = config.get("head_dim", 256), tokens.shape[1]
    words = f"{base}embed_tokens.weight"
    table = read(words if words in has else "lm_head.weight")

    def norm(x, name):
        return rms_norm(x, 1 + read(f"{name}.weight"), epsilon)

    x = table[tokens] * table.shape[1] ** 0.5
    for layer in range(config.get("num_hidden_layers", 26)):
        name, (window, parameters) = f"{base}layers.{layer}", _kind(config, layer)
        y = norm(x, f"{name}.input_layernorm")
        q, k, v = (
            linear(y, read, f"{name}.self_attn.{each}_proj", bias=False)
            .reshape(*y.shape[:2], -1, head_dim)
            .transpose(0, 2, 1, 3)
            for each in "qkv"
        )
        tables = rotations(parameters, head_dim, length)
        q, k = rotate(norm(q, f"{name}.self_attn.q_norm"), tables), rotate(norm(k, f"{name}.self_attn.k_norm"), tables)
        y = attend(
            q,
            k,
            v,
            causal(length, window) & valid[:, None, None, :],
            scale=config.get("query_pre_attn_scalar", 256) ** -0.5,
            softcap=config.get("attn_logit_softcapping") or 0.0,
        )
        x = x + norm(linear(y, read, f"{name}.self_attn.o_proj", bias=False), f"{name}.post_attention_layernorm")
        y = norm(x, f"{name}.pre_feedforward_layernorm")
        gate, up = (linear(y, read, f"{name}.mlp.{each}_proj", bias=False) for each in ("gate", "up"))
        y = linear(act(gate) * up, read, f"{name}.mlp.down_proj", bias=False)
        x = x + norm(y, f"{name}.post_feedforward_layernorm")
    x = norm(x, f"{base}norm")
    if config["architectures"][0].endswith("ForSequenceClassification"):
        last = length - 1 - np.argmax(valid[:, ::-1], axis=1)
        return linear(x[np.arange(len(x)), last], read, "score", bias=False)
    logits = x @ (table if config.get("tie_word_embeddings", True) else read("lm_head.weight")).T
    softcap = config.get("final_logit_softcapping")
    return softcap * np.tanh(logits / softcap) if softcap else logits


def _kind(config: Mapping[str, Any], layer: int) -> tuple[int | None, dict[str, Any]]:
    """Returns the window of a layer, None without one, and the parameters of its rotary positions."""
    kinds = config.get("layer_types")
    every = config.get("sliding_window_pattern", 6)
    is_full = kinds[layer] == "full_attention" if kinds else (layer + 1) % every == 0
    own = (config.get("rope_parameters") or {}).get("full_attention" if is_full else "sliding_attention") or {}
    theta = config.get("rope_theta", 1e6) if is_full else config.get("rope_local_base_freq", 1e4)
    scaling = config.get("rope_scaling") or {} if is_full else {}
    parameters = {"rope_type": scaling.get("type", "default"), "rope_theta": theta, "partial_rotary_factor": 1.0}
    return None if is_full else config.get("sliding_window", 4096), parameters | own | scaling
