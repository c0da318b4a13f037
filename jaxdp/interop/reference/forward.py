"""Registry of reference forward passes: value of `model_type` in config.json -> function to logits."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdp.interop.reference.bert import bert
from jaxdp.interop.reference.distilbert import distilbert
from jaxdp.interop.reference.gemma3 import gemma3
from jaxdp.interop.reference.gpt2 import gpt2
from jaxdp.interop.reference.llama import llama
from jaxdp.interop.reference.marian import marian
from jaxdp.interop.reference.modernbert import modernbert
from jaxdp.interop.reference.roberta import roberta
from jaxdp.interop.reference.t5 import t5
from jaxdp.interop.source import ParameterSource

FORWARD: Mapping[str, Callable[..., np.ndarray]] = {
    "bert": bert,
    "distilbert": distilbert,
    "gemma3_text": gemma3,
    "gpt2": gpt2,
    "llama": llama,
    "marian": marian,
    "mistral": llama,
    "modernbert": modernbert,
    "mt5": t5,
    "qwen2": llama,
    "qwen3": llama,
    "roberta": roberta,
    "t5": t5,
    "xlm-roberta": roberta,
}


def reference_logits(
    tensors: ParameterSource,
    config: Mapping[str, Any],
    tokens: np.ndarray,
    valid: np.ndarray,
    targets: np.ndarray | None = None,
) -> np.ndarray:
    """Computes the outputs of a Hugging Face folder from its own tensors and configuration, one tensor at a time.

    Args:
        tensors: Tensors of the folder, by their names there.
        config: Content of config.json.
        tokens: Token ids, `[batch, length]`.
        valid: True at tokens that are no padding, `[batch, length]`.
        targets: Inputs of the decoder of an encoder-decoder, `[batch, target_length]`.

    Returns:
        Logits of the head in float64, or the final hidden states of a model without one.
    """

    def read(name: str) -> np.ndarray:
        return tensors.read(name).astype(np.float64)

    return FORWARD[config["model_type"]](
        read, config, set(tensors.arrays), tokens, valid, *(() if targets is None else (targets,))
    )
