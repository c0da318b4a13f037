"""Gemma 3 text models (Gemma Team 2025): tensors and configuration of Hugging Face."""

from collections.abc import Mapping
from typing import Any

from jaxdp.interop.families import rope
from jaxdp.interop.families.family import ConfigKeys, Family, Row, activation_key
from jaxdp.interop.families.layer_types import FULL, SLIDING, layer_types_of, windows_to_model
from jaxdp.interop.families.llama import EMBEDDINGS, LAYER, MODEL, NOT_LEARNED, SAME, decoder_architectures
from jaxdp.interop.families.qwen import QK_NORMS

NORMS: tuple[Row, ...] = (
    ("layers.{}.post_attention_layernorm.weight", "layer_{}/attention_post_norm/scale"),
    ("layers.{}.pre_feedforward_layernorm.weight", "layer_{}/mlp_norm/scale"),
    ("layers.{}.post_feedforward_layernorm.weight", "layer_{}/mlp_post_norm/scale"),
)

_activation_to_model, _activation_to_theirs = activation_key(
    "hidden_activation", {"gelu_pytorch_tanh": "geglu_tanh", "gelu": "geglu", "silu": "swiglu"}
)


def _to_model(values: Mapping[str, Any]) -> dict[str, Any]:
    every, layers = values["sliding_window_pattern"], range(values["num_hidden_layers"])
    kinds = values["layer_types"] or [SLIDING if (layer + 1) % every else FULL for layer in layers]
    windows = windows_to_model(kinds, values["sliding_window"])
    full = rope.parameters_by_kind(values, FULL, values["rope_theta"]) | (values["rope_scaling"] or {})
    if "type" in full and "rope_type" not in (values["rope_scaling"] or {}):
        full["rope_type"] = full.pop("type")
    local = rope.base_of(values, SLIDING, values["rope_local_base_freq"])
    return {
        **_activation_to_model(values),
        **windows,
        **rope.rope_to_model(full, values["max_position_embeddings"]),
        "rotary_local_base": local if windows["attention_window"] else 0.0,
        "embedding_scale": values["hidden_size"] ** 0.5,
        "attention_scale": values["query_pre_attn_scalar"] ** -0.5,
        "attention_logit_softcap": values["attn_logit_softcapping"] or 0.0,
        "logit_softcap": values["final_logit_softcapping"] or 0.0,
    }


def _to_theirs(model: Mapping[str, Any]) -> dict[str, Any]:
    scalar = model["attention_scale"] ** -2
    whole = round(scalar)
    return {
        **_activation_to_theirs(model),
        **rope.rope_to_theirs(model),
        "rope_local_base_freq": model["rotary_local_base"] or model["rotary_base"],
        "layer_types": layer_types_of(model),
        "sliding_window": model["attention_window"] or 4096,
        "query_pre_attn_scalar": whole if whole and whole**-0.5 == model["attention_scale"] else scalar,
        "attn_logit_softcapping": model["attention_logit_softcap"] or None,
        "final_logit_softcapping": model["logit_softcap"] or None,
    }


GEMMA3 = Family(
    model_type="gemma3_text",
    body=EMBEDDINGS + tuple(row for row in LAYER if row[0] not in {theirs for theirs, _ in NORMS}) + NORMS + QK_NORMS,
    prefixes=("model.",),
    ignored=NOT_LEARNED,
    architectures={
        name.replace("Gemma3ForSequence", "Gemma3TextForSequence"): architecture
        for name, architecture in decoder_architectures("Gemma3").items()
    },
    config=ConfigKeys(
        same={**SAME, "num_key_value_heads": "num_kv_heads", "head_dim": "head_dim"},
        defaults={
            "vocab_size": 262208, "max_position_embeddings": 131072, "hidden_size": 2304, "intermediate_size": 9216,
            "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "rms_norm_eps": 1e-6, "attention_dropout": 0.0, "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True, "query_pre_attn_scalar": 256, "sliding_window": 4096, "layer_types": None,
            "sliding_window_pattern": 6, "final_logit_softcapping": None, "attn_logit_softcapping": None,
            "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": None, "rope_parameters": None,
        },
        fixed={"attention_bias": (False,), "use_bidirectional_attention": (False, None)},
        free=frozenset(("_sliding_window_pattern", "cache_implementation")),  # the first repeats layer_types
        model={**MODEL, "norm_position": "both", "norm_offset": 1.0, "qk_norm": True, "qkv_bias": False},
        translated=frozenset(
            ("hidden_activation", "query_pre_attn_scalar", "sliding_window", "layer_types", "sliding_window_pattern",
             "final_logit_softcapping", "attn_logit_softcapping", "rope_theta", "rope_local_base_freq", "rope_scaling",
             "rope_parameters")
        ),
        to_model=_to_model,
        to_theirs=_to_theirs,
    ),
)  # fmt: skip
