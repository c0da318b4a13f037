"""Reference forward pass of BERT with its heads."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdp.interop.reference.layers import ACTIVATIONS, Read, attend, heads, layer_norm, linear


def bert(read: Read, config: Mapping[str, Any], has: set[str], tokens: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Computes the logits of the head, or the hidden states without one; see `jaxdp.interop.reference.forward`."""
    base = "bert." if any(name.startswith("bert.") for name in has) else ""
    act, epsilon = ACTIVATIONS[config.get("hidden_act", "gelu")], config.get("layer_norm_eps", 1e-12)
    x = encode_bert(read, config, has, base, tokens, valid)
    kind = (config.get("architectures") or ["BertForMaskedLM"])[0]
    if kind == "BertModel":
        return x
    if kind == "BertForSequenceClassification":
        return linear(np.tanh(linear(x[:, 0], read, f"{base}pooler.dense")), read, "classifier")
    x = act(linear(x, read, "cls.predictions.transform.dense"))
    x = layer_norm(x, _spelled(read, has), "cls.predictions.transform.LayerNorm", epsilon)
    own = "cls.predictions.decoder.weight"
    tied = config.get("tie_word_embeddings", True)
    embedding = f"{base}embeddings.word_embeddings.weight"
    table = read(own if not tied or embedding not in has else embedding)
    bias, of_decoder = "cls.predictions.bias", "cls.predictions.decoder.bias"
    is_own = of_decoder in has and (not tied or bias not in has)  # without tying the decoder uses its own
    return x @ table.T + read(of_decoder if is_own else bias)


def encode_bert(
    read: Read, config: Mapping[str, Any], has: set[str], base: str, tokens: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Computes the final hidden states `[batch, length, hidden_size]`."""
    read, epsilon = _spelled(read, has), config.get("layer_norm_eps", 1e-12)
    act, num_heads = ACTIVATIONS[config.get("hidden_act", "gelu")], config.get("num_attention_heads", 12)
    words = f"{base}embeddings.word_embeddings.weight"
    x = read(words if words in has else "cls.predictions.decoder.weight")[tokens]
    x = x + read(f"{base}embeddings.position_embeddings.weight")[: tokens.shape[1]]
    x = x + read(f"{base}embeddings.token_type_embeddings.weight")[0]
    x = layer_norm(x, read, f"{base}embeddings.LayerNorm", epsilon)
    for layer in range(config.get("num_hidden_layers", 12)):
        name = f"{base}encoder.layer.{layer}"
        q, k, v = (
            heads(linear(x, read, f"{name}.attention.self.{each}"), num_heads) for each in ("query", "key", "value")
        )
        y = attend(q, k, v, valid[:, None, None, :], scale=q.shape[-1] ** -0.5)
        x = layer_norm(
            x + linear(y, read, f"{name}.attention.output.dense"), read, f"{name}.attention.output.LayerNorm", epsilon
        )
        y = linear(act(linear(x, read, f"{name}.intermediate.dense")), read, f"{name}.output.dense")
        x = layer_norm(x + y, read, f"{name}.output.LayerNorm", epsilon)
    return x


def _spelled(read: Read, has: set[str]) -> Read:
    """Returns `read` for tensors that old versions spelled with gamma and beta."""
    old = {"weight": "gamma", "bias": "beta"}

    def spelled(name: str) -> np.ndarray:
        stem, _, last = name.rpartition(".")
        return read(name if name in has else f"{stem}.{old[last]}")

    return spelled
