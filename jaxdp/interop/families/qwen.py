"""Qwen 2 and 2.5 (Yang et al. 2024) and Qwen 3 (Yang et al. 2025): tensors and configuration of Hugging Face."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdp.interop.families.family import ConfigKeys, Family, Row
from jaxdp.interop.families.layer_types import FULL, SLIDING, layer_types_of, windows_to_model
from jaxdp.interop.families.llama import (
    DEFAULTS,
    EMBEDDINGS,
    LAYER,
    MODEL,
    NOT_LEARNED,
    QKV_BIASES,
    SAME,
    TRANSLATED,
    decoder_architectures,
    window_keys,
)

QK_NORMS: tuple[Row, ...] = (
    ("layers.{}.self_attn.q_norm.weight", "layer_{}/attention/query_norm/scale"),
    ("layers.{}.self_attn.k_norm.weight", "layer_{}/attention/key_norm/scale"),
)


def _windows(values: Mapping[str, Any]) -> dict[str, Any]:
    window = values["sliding_window"] if values["use_sliding_window"] else None
    first = values["max_window_layers"]
    layers = range(values["num_hidden_layers"])
    kinds = values["layer_types"] or [SLIDING if window and layer >= first else FULL for layer in layers]
    return windows_to_model(kinds, window)


def _windows_to_theirs(model: Mapping[str, Any]) -> dict[str, Any]:
    kinds = layer_types_of(model)
    return {
        "use_sliding_window": SLIDING in kinds,
        "sliding_window": model["attention_window"] or None,
        "layer_types": kinds,
    }


_to_model, _to_theirs = window_keys(_windows, _windows_to_theirs)

KEYS = ConfigKeys(
    same=SAME,
    defaults={
        **DEFAULTS, "vocab_size": 151936, "max_position_embeddings": 32768, "intermediate_size": 22016,
        "num_key_value_heads": 32, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
        "layer_types": None,
    },
    model={**MODEL, "qkv_bias": True},
    translated=TRANSLATED | {"use_sliding_window", "sliding_window", "max_window_layers", "layer_types"},
    to_model=_to_model,
    to_theirs=_to_theirs,
)  # fmt: skip

QWEN2 = Family(
    model_type="qwen2",
    body=EMBEDDINGS + LAYER + QKV_BIASES,
    prefixes=("model.", "transformer."),
    ignored=NOT_LEARNED,
    architectures=decoder_architectures("Qwen2"),
    config=KEYS,
)

QWEN3 = dataclasses.replace(
    QWEN2,
    model_type="qwen3",
    body=EMBEDDINGS + LAYER + QK_NORMS,
    architectures=decoder_architectures("Qwen3"),
    config=dataclasses.replace(
        KEYS,
        defaults={**KEYS.defaults, "head_dim": 128},
        fixed={"attention_bias": (False,)},
        model={**MODEL, "qkv_bias": False, "qk_norm": True},
    ),
)
