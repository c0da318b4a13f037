"""Reference forward pass of RoBERTa and XLM-R with their heads."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdp.interop.reference.bert import encode_bert
from jaxdp.interop.reference.layers import ACTIVATIONS, Read, layer_norm, linear


def roberta(read: Read, config: Mapping[str, Any], has: set[str], tokens: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Computes the logits of the head; see `jaxdp.interop.reference.forward`."""
    base = "roberta." if any(name.startswith("roberta.") for name in has) else ""
    epsilon, kind = config.get("layer_norm_eps", 1e-12), config["architectures"][0]
    words = f"{base}embeddings.word_embeddings.weight"
    first = config.get("pad_token_id", 1) + 1

    def read_from_bert(name):  # BERT's positions begin at 0 and its table may be tied to a head of another name
        if name == f"{base}embeddings.position_embeddings.weight":
            return read(name)[first:]
        return read("lm_head.decoder.weight" if name == words and words not in has else name)

    x = encode_bert(read_from_bert, config, has | {words}, base, tokens, valid)
    if kind.endswith("Model"):
        return x
    if kind.endswith("ForSequenceClassification"):
        return linear(np.tanh(linear(x[:, 0], read, "classifier.dense")), read, "classifier.out_proj")
    x = layer_norm(ACTIVATIONS["gelu"](linear(x, read, "lm_head.dense")), read, "lm_head.layer_norm", epsilon)
    tied = config.get("tie_word_embeddings", True)
    bias = (
        "lm_head.bias"
        if "lm_head.bias" in has and (tied or "lm_head.decoder.bias" not in has)
        else "lm_head.decoder.bias"
    )
    return x @ (read_from_bert(words) if tied else read("lm_head.decoder.weight")).T + read(bias)
