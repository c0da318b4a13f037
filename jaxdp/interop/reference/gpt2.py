"""Reference forward pass of GPT-2."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdp.interop.reference.layers import ACTIVATIONS, Read, attend, heads, layer_norm


def gpt2(read: Read, config: Mapping[str, Any], has: set[str], tokens: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Computes the logits `[batch, length, vocab_size]`; see `jaxdp.interop.reference.forward`."""
    base = "transformer." if "transformer.wte.weight" in has or "transformer.wpe.weight" in has else ""
    act, epsilon = ACTIVATIONS[config.get("activation_function", "gelu_new")], config.get("layer_norm_epsilon", 1e-5)
    num_heads, length = config.get("n_head", 12), tokens.shape[1]

    def conv1d(x, name):
        return x @ read(f"{name}.weight") + read(f"{name}.bias")

    tied = config.get("tie_word_embeddings", True)
    embedding = read(f"{base}wte.weight" if f"{base}wte.weight" in has else "lm_head.weight")
    x = embedding[tokens] + read(f"{base}wpe.weight")[:length]
    allowed = np.tril(np.ones((length, length), bool)) & valid[:, None, None, :]
    for layer in range(config.get("n_layer", 12)):
        name = f"{base}h.{layer}"
        q, k, v = np.split(conv1d(layer_norm(x, read, f"{name}.ln_1", epsilon), f"{name}.attn.c_attn"), 3, axis=-1)
        q, k, v = (heads(each, num_heads) for each in (q, k, v))
        x = x + conv1d(attend(q, k, v, allowed, scale=q.shape[-1] ** -0.5), f"{name}.attn.c_proj")
        hidden = act(conv1d(layer_norm(x, read, f"{name}.ln_2", epsilon), f"{name}.mlp.c_fc"))
        x = x + conv1d(hidden, f"{name}.mlp.c_proj")
    x = layer_norm(x, read, f"{base}ln_f", epsilon)
    if config["architectures"][0] == "GPT2ForSequenceClassification":
        last = length - 1 - np.argmax(valid[:, ::-1], axis=1)
        return x[np.arange(len(x)), last] @ read("score.weight").T
    return x @ (embedding if tied else read("lm_head.weight")).T
