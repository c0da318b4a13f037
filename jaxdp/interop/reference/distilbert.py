"""Reference forward pass of DistilBERT with its heads."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdp.interop.reference.layers import ACTIVATIONS, Read, attend, heads, layer_norm, linear

EPSILON = 1e-12


def distilbert(
    read: Read, config: Mapping[str, Any], has: set[str], tokens: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Computes the logits of the head; see `jaxdp.interop.reference.forward`."""
    base = "distilbert." if any(name.startswith("distilbert.") for name in has) else ""
    act, num_heads = ACTIVATIONS[config.get("activation", "gelu")], config.get("n_heads", 12)
    words = f"{base}embeddings.word_embeddings.weight"
    table = read(words if words in has else "vocab_projector.weight")
    x = table[tokens] + read(f"{base}embeddings.position_embeddings.weight")[: tokens.shape[1]]
    x = layer_norm(x, read, f"{base}embeddings.LayerNorm", EPSILON)
    for layer in range(config.get("n_layers", 6)):
        name = f"{base}transformer.layer.{layer}"
        q, k, v = (heads(linear(x, read, f"{name}.attention.{each}_lin"), num_heads) for each in "qkv")
        y = attend(q, k, v, valid[:, None, None, :], scale=q.shape[-1] ** -0.5)
        x = layer_norm(x + linear(y, read, f"{name}.attention.out_lin"), read, f"{name}.sa_layer_norm", EPSILON)
        y = linear(act(linear(x, read, f"{name}.ffn.lin1")), read, f"{name}.ffn.lin2")
        x = layer_norm(x + y, read, f"{name}.output_layer_norm", EPSILON)
    if config["architectures"][0] == "DistilBertModel":
        return x
    if config["architectures"][0] == "DistilBertForSequenceClassification":
        return linear(np.maximum(linear(x[:, 0], read, "pre_classifier"), 0), read, "classifier")
    x = layer_norm(act(linear(x, read, "vocab_transform")), read, "vocab_layer_norm", EPSILON)
    tied = config.get("tie_word_embeddings", True)
    return x @ (table if tied else read("vocab_projector.weight")).T + read("vocab_projector.bias")
