"""Registry of reference forward passes: value of `model_type` in config.json -> function to logits."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdp.interop.reference.bert import bert
from jaxdp.interop.reference.distilbert import distilbert
from jaxdp.interop.reference.gpt2 import gpt2
from jaxdp.interop.reference.llama import llama
from jaxdp.interop.reference.roberta import roberta
from jaxdp.interop.source import ParameterSource

FORWARD: Mapping[str, Callable[..., np.ndarray]] = {
    "bert": bert,
    "distilbert": distilbert,
    "gpt2": gpt2,
    "llama": llama,
    "mistral": llama,
    "qwen2": llama,
    "qwen3": llama,
    "roberta": roberta,
    "xlm-roberta": roberta,
}


def reference_logits(
    tensors: ParameterSource, config: Mapping[str, Any], tokens: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Computes the outputs of a Hugging Face folder from its own tensors and configuration, one tensor at a time.

    Args:
        tensors: Tensors of the folder, by their names there.
        config: Content of config.json.
        tokens: Token ids, `[batch, length]`.
        valid: True at tokens that are no padding, `[batch, length]`.

    Returns:
        Logits of the head in float64, or the final hidden states of a model without one.
    """

    def read(name: str) -> np.ndarray:
        return tensors.read(name).astype(np.float64)

    return FORWARD[config["model_type"]](read, config, set(tensors.arrays), tokens, valid)
