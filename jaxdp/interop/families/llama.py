"""Llama 3 (Grattafiori et al. 2024), also SmolLM, and Mistral (Jiang et al. 2023): tensors and configuration of Hugging Face."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxdp.errors import UserError
from jaxdp.interop.families import rope
from jaxdp.interop.families.family import Architecture, ConfigKeys, Family, Row, activation_key

EMBEDDINGS: tuple[Row, ...] = (("embed_tokens.weight", "token_embedding"), ("norm.weight", "final_norm/scale"))

LAYER: tuple[Row, ...] = (
    ("layers.{}.input_layernorm.weight", "layer_{}/attention_norm/scale"),
    ("layers.{}.self_attn.q_proj.weight", "layer_{}/attention/query/kernel.T"),
    ("layers.{}.self_attn.k_proj.weight", "layer_{}/attention/key/kernel.T"),
    ("layers.{}.self_attn.v_proj.weight", "layer_{}/attention/value/kernel.T"),
    ("layers.{}.self_attn.o_proj.weight", "layer_{}/attention/out/kernel.T"),
    ("layers.{}.post_attention_layernorm.weight", "layer_{}/mlp_norm/scale"),
    ("layers.{}.mlp.gate_proj.weight", "layer_{}/mlp/gate/kernel.T"),
    ("layers.{}.mlp.up_proj.weight", "layer_{}/mlp/up/kernel.T"),
    ("layers.{}.mlp.down_proj.weight", "layer_{}/mlp/down/kernel.T"),
)

QKV_BIASES: tuple[Row, ...] = (
    ("layers.{}.self_attn.q_proj.bias", "layer_{}/attention/query/bias"),
    ("layers.{}.self_attn.k_proj.bias", "layer_{}/attention/key/bias"),
    ("layers.{}.self_attn.v_proj.bias", "layer_{}/attention/value/bias"),
)

OTHER_BIASES: tuple[Row, ...] = (
    ("layers.{}.self_attn.o_proj.bias", "layer_{}/attention/out/bias"),
    ("layers.{}.mlp.gate_proj.bias", "layer_{}/mlp/gate/bias"),
    ("layers.{}.mlp.up_proj.bias", "layer_{}/mlp/up/bias"),
    ("layers.{}.mlp.down_proj.bias", "layer_{}/mlp/down/bias"),
)

NOT_LEARNED = (
    (r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", "rotary frequencies, which have no learned values"),
)


def decoder_architectures(name: str) -> dict[str, Architecture]:
    """Returns the classes whose names begin with `name`: causal LM and classifier."""
    return {
        f"{name}ForCausalLM": Architecture(
            task="causal_lm",
            prefix="model.",
            head=(("lm_head.weight", "output/kernel.T"),),
            tied=(("lm_head.weight", "embed_tokens.weight"),),
        ),
        f"{name}ForSequenceClassification": Architecture(
            task="classification",
            prefix="model.",
            head=(("score.weight", "classifier/output/kernel.T"),),
            options={"pooling": "last"},
            model={"classifier_bias": False},
            ignored=((r"lm_head\.weight", "language model head, which this architecture does not use"),),
        ),
    }


SAME = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_length",
    "hidden_size": "embed_dim",
    "intermediate_size": "mlp_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "rms_norm_eps": "norm_epsilon",
    "attention_dropout": "attention_dropout_rate",
    "tie_word_embeddings": "tie_embeddings",
}

DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32000, "max_position_embeddings": 2048, "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": None, "head_dim": None,
    "rms_norm_eps": 1e-6, "attention_dropout": 0.0, "hidden_act": "silu", "tie_word_embeddings": False,
    **rope.DEFAULTS,
}  # fmt: skip

MODEL: Mapping[str, Any] = {
    "architecture": "decoder", "norm": "rmsnorm", "norm_position": "pre", "positions": "rotary", "use_bias": False,
    "dropout_rate": 0.0, "embedding_norm": False, "num_token_types": 0,
}  # fmt: skip

TRANSLATED = frozenset(("num_key_value_heads", "head_dim", "hidden_act")) | rope.KEYS

_activation_to_model, _activation_to_theirs = activation_key("hidden_act", {"silu": "swiglu", "swish": "swiglu"})


def attention_to_model(values: Mapping[str, Any], theta: float) -> dict[str, Any]:
    """Translates heads and rotary positions.

    Args:
        values: Keys of config.json.
        theta: Base of a config.json without one.

    Raises:
        UserError: The scaling of rotary positions is not supported.
    """
    num_heads = values["num_attention_heads"]
    return {
        "num_kv_heads": num_heads if values["num_key_value_heads"] is None else values["num_key_value_heads"],
        "head_dim": values["hidden_size"] // num_heads if values["head_dim"] is None else values["head_dim"],
        **rope.rope_to_model(rope.rope_parameters(values, theta), values["max_position_embeddings"]),
    }


def attention_to_theirs(model: Mapping[str, Any]) -> dict[str, Any]:
    """Translates back what `attention_to_model` translates."""
    heads = {"num_key_value_heads": model["num_kv_heads"], "head_dim": model["head_dim"]}
    return heads | rope.rope_to_theirs(model)


def _to_model(values: Mapping[str, Any]) -> dict[str, Any]:
    has_bias = values["attention_bias"]
    if values["mlp_bias"] != has_bias:
        raise UserError(
            f"attention_bias={has_bias} with mlp_bias={values['mlp_bias']} of config.json is not supported; expected "
            "equal values."
        )
    return _activation_to_model(values) | attention_to_model(values, 10000.0) | {"use_bias": has_bias}


def _to_theirs(model: Mapping[str, Any]) -> dict[str, Any]:
    has_bias = model["use_bias"]
    biases = {"attention_bias": has_bias, "mlp_bias": has_bias}
    return _activation_to_theirs(model) | attention_to_theirs(model) | biases


LLAMA = Family(
    model_type="llama",
    body=EMBEDDINGS + LAYER + QKV_BIASES + OTHER_BIASES,
    prefixes=("model.", "transformer."),
    ignored=NOT_LEARNED,
    architectures=decoder_architectures("Llama"),
    config=ConfigKeys(
        same=SAME,
        defaults={**DEFAULTS, "attention_bias": False, "mlp_bias": False},
        model=MODEL,
        translated=TRANSLATED | {"attention_bias", "mlp_bias"},
        to_model=_to_model,
        to_theirs=_to_theirs,
    ),
)


def window_keys(
    layers: Callable[[Mapping[str, Any]], dict[str, Any]], to_theirs: Callable[[Mapping[str, Any]], dict[str, Any]]
) -> tuple[Callable, Callable]:
    """Returns `to_model` and `to_theirs` of a family without attention_bias whose layers may have windows.

    Args:
        layers: Function from the keys of config.json to those of the model's windows.
        to_theirs: Its inverse.
    """
    return (
        lambda values: _activation_to_model(values) | attention_to_model(values, 10000.0) | layers(values),
        lambda model: _activation_to_theirs(model) | attention_to_theirs(model) | to_theirs(model),
    )


_mistral_to_model, _mistral_to_theirs = window_keys(
    lambda values: {"attention_window": values["sliding_window"] or 0},
    lambda model: {"sliding_window": model["attention_window"] or None},
)

MISTRAL = dataclasses.replace(
    LLAMA,
    model_type="mistral",
    body=EMBEDDINGS + LAYER,
    architectures=decoder_architectures("Mistral"),
    config=ConfigKeys(
        same=SAME,
        defaults={
            **DEFAULTS, "max_position_embeddings": 4096 * 32, "intermediate_size": 14336, "num_key_value_heads": 8,
            "sliding_window": 4096,
        },
        model=MODEL,
        translated=TRANSLATED | {"sliding_window"},
        to_model=_mistral_to_model,
        to_theirs=_mistral_to_theirs,
    ),
)  # fmt: skip
