"""Reference forward pass of Llama, Mistral, Qwen 2 and Qwen 3 with their heads."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdp.interop.reference.layers import Read, attend, linear, rms_norm, silu
from jaxdp.interop.reference.rope import parameters_of, rotate, rotations


def llama(read: Read, config: Mapping[str, Any], has: set[str], tokens: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Computes the logits of the head; see `jaxdp.interop.reference.forward`."""
    base = next((each for each in ("model.", "transformer.") if any(name.startswith(each) for name in has)), "")
    epsilon, num_heads, length = (
        config.get("rms_norm_eps", 1e-6),
        config.get("num_attention_heads", 32),
        tokens.shape[1],
    )
    words = f"{base}embed_tokens.weight"
    table = read(words if words in has else "lm_head.weight")
    x, tables = table[tokens], None
    for layer in range(config.get("num_hidden_layers", 32)):
        name = f"{base}layers.{layer}"

        def project(x, each, name=name):
            return linear(x, read, f"{name}.{each}", bias=f"{name}.{each}.bias" in has)

        y = rms_norm(x, read(f"{name}.input_layernorm.weight"), epsilon)
        q, k, v = (project(y, f"self_attn.{each}_proj") for each in "qkv")
        head_dim = q.shape[-1] // num_heads
        q, k, v = (each.reshape(*each.shape[:2], -1, head_dim).transpose(0, 2, 1, 3) for each in (q, k, v))
        if f"{name}.self_attn.q_norm.weight" in has:
            q = rms_norm(q, read(f"{name}.self_attn.q_norm.weight"), epsilon)
            k = rms_norm(k, read(f"{name}.self_attn.k_norm.weight"), epsilon)
        tables = tables or rotations(parameters_of(config, 10000.0), head_dim, length)
        allowed = causal(length, window_of(config, layer)) & valid[:, None, None, :]
        y = attend(rotate(q, tables), rotate(k, tables), v, allowed, scale=head_dim**-0.5)
        x = x + project(y, "self_attn.o_proj")
        y = rms_norm(x, read(f"{name}.post_attention_layernorm.weight"), epsilon)
        x = x + project(silu(project(y, "mlp.gate_proj")) * project(y, "mlp.up_proj"), "mlp.down_proj")
    x = rms_norm(x, read(f"{base}norm.weight"), epsilon)
    if config["architectures"][0].endswith("ForSequenceClassification"):
        last = length - 1 - np.argmax(valid[:, ::-1], axis=1)
        return linear(x[np.arange(len(x)), last], read, "score", bias=False)
    return x @ (table if config.get("tie_word_embeddings", False) else read("lm_head.weight")).T


def causal(length: int, window: int | None) -> np.ndarray:
    """Returns which of the last `window` tokens each token sees, `[length, length]`; None: all earlier ones."""
    distance = np.arange(length)[:, None] - np.arange(length)
    return (distance >= 0) & (distance < (window or length))


def window_of(config: Mapping[str, Any], layer: int) -> int | None:
    """Returns the size of the window of a layer, or None."""
    if config["model_type"] == "mistral":
        return config.get("sliding_window", 4096)
    if not config.get("use_sliding_window", False):
        return None
    kinds = config.get("layer_types")
    is_sliding = kinds[layer] == "sliding_attention" if kinds else layer >= config.get("max_window_layers", 28)
    return config.get("sliding_window", 4096) if is_sliding else None
