"""Order of parameters along the flow of data through a model: embeddings, layers by number, head."""

import re
from typing import Any

_ORDER = (
    "token_embedding", "encoder", "target_token_embedding", "decoder",
    "position_embedding", "relative_embedding", "token_type_embedding", "embedding_norm", "value_embedding",
    "layer", "layers",
    "residual_scalar", "embedding_scalar",
    "attention_norm", "attention", "attention_post_norm",
    "cross_attention_norm", "cross_attention", "cross_attention_post_norm",
    "mlp_norm", "mlp", "mlp_post_norm",
    "query", "key", "value", "query_norm", "key_norm", "out", "gate", "up", "down",
    "final_norm", "masked_lm", "classifier", "output", "output_bias",
)  # fmt: skip
"""Names of modules and parameters, in the order in which a model uses those of one level."""

_NUMBERED = re.compile(r"(.+)_(\d+)")


def data_flow_order(path: str) -> tuple[Any, ...]:
    """Returns a sort key for paths such as `layer_3/mlp/up/kernel`; unknown names follow those that are known.

    Args:
        path: Path of a parameter, with scanned or unrolled layers.
    """
    return tuple(map(_element, path.split("/")))


def _element(name: str) -> tuple[int, str, int]:
    match = _NUMBERED.fullmatch(name)
    stem, number = (match[1], int(match[2])) if match else (name, 0)
    return (_ORDER.index(stem), "", number) if stem in _ORDER else (len(_ORDER), stem, number)
