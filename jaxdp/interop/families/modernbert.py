"""ModernBERT (Warner et al. 2024): tensors and configuration of Hugging Face."""

from collections.abc import Mapping
from typing import Any

from jaxdp.errors import UserError
from jaxdp.interop.families import rope
from jaxdp.interop.families.family import Architecture, ConfigKeys, Family, activation_key, encoder_of
from jaxdp.interop.families.layer_types import FULL, SLIDING, layer_types_of, windows_to_model

BODY = (
    ("embeddings.tok_embeddings.weight", "token_embedding"),
    ("embeddings.norm.weight", "embedding_norm/scale"),
    ("layers.{}.attn_norm.weight", "layer_{}/attention_norm/scale"),
    ("layers.{}.attn.Wqkv.weight", "layer_{}/attention/query|key|value/kernel.T"),
    ("layers.{}.attn.Wo.weight", "layer_{}/attention/out/kernel.T"),
    ("layers.{}.mlp_norm.weight", "layer_{}/mlp_norm/scale"),
    ("layers.{}.mlp.Wi.weight", "layer_{}/mlp/gate|up/kernel.T"),
    ("layers.{}.mlp.Wo.weight", "layer_{}/mlp/down/kernel.T"),
    ("final_norm.weight", "final_norm/scale"),
)

_activation_to_model, _activation_to_theirs = activation_key(
    "hidden_activation", {"gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh", "silu": "swiglu"}
)


def _to_model(values: Mapping[str, Any]) -> dict[str, Any]:
    if values["classifier_activation"] != values["hidden_activation"]:
        raise UserError(
            f"classifier_activation={values['classifier_activation']!r} with hidden_activation="
            f"{values['hidden_activation']!r} of config.json is not supported; expected equal values."
        )
    pooling = {"cls": "first", "mean": "mean"}.get(values["classifier_pooling"])
    if pooling is None:
        raise UserError(
            f"classifier_pooling={values['classifier_pooling']!r} of config.json is not supported; supported are cls and mean."
        )
    every, layers = values["global_attn_every_n_layers"], range(values["num_hidden_layers"])
    kinds = values["layer_types"] or [SLIDING if layer % every else FULL for layer in layers]
    windows = windows_to_model(kinds, values["local_attention"] // 2 + 1)
    theta = {FULL: "global_rope_theta", SLIDING: "local_rope_theta"}
    full, sliding = (rope.base_of(values, kind, values[theta[kind]]) for kind in (FULL, SLIDING))
    return {
        **_activation_to_model(values),
        **windows,
        "rotary_base": full if FULL in kinds else sliding,
        "rotary_local_base": sliding if windows["attention_window_pattern"] else 0.0,
        "output_bias": values["decoder_bias"],
        "pooling": pooling,
    }


def _to_theirs(model: Mapping[str, Any]) -> dict[str, Any]:
    activation = _activation_to_theirs(model)
    return {
        **activation,
        "classifier_activation": activation.get("hidden_activation", "gelu"),
        "classifier_pooling": "mean" if model["pooling"] == "mean" else "cls",
        "decoder_bias": bool(model["output_bias"]),
        "layer_types": layer_types_of(model),
        "local_attention": 2 * max(model["attention_window"] - 1, 0),
        "global_rope_theta": model["rotary_base"],
        "local_rope_theta": model["rotary_local_base"] or model["rotary_base"],
    }


MODERNBERT = Family(
    model_type="modernbert",
    body=BODY,
    prefixes=("model.",),
    architectures={
        "ModernBertForMaskedLM": Architecture(
            task="masked_lm",
            prefix="model.",
            head=(
                ("head.dense.weight", "masked_lm/dense/kernel.T"),
                ("head.norm.weight", "masked_lm/norm/scale"),
                ("decoder.bias", "output_bias"),
                ("decoder.weight", "output/kernel.T"),
            ),
            tied=(("decoder.weight", "embeddings.tok_embeddings.weight"),),
        ),
        "ModernBertModel": encoder_of((r"(head|decoder)\..*", "head, which this architecture does not have")),
        "ModernBertForSequenceClassification": Architecture(
            task="classification",
            prefix="model.",
            head=(
                ("head.dense.weight", "classifier/pooler/kernel.T"),
                ("head.norm.weight", "classifier/pooler_norm/scale"),
                ("classifier.weight", "classifier/output/kernel.T"),
                ("classifier.bias", "classifier/output/bias"),
            ),
            model={"pooler": "gelu_norm"},
        ),
    },
    config=ConfigKeys(
        same={
            "vocab_size": "vocab_size",
            "max_position_embeddings": "max_length",
            "hidden_size": "embed_dim",
            "intermediate_size": "mlp_dim",
            "num_hidden_layers": "num_layers",
            "num_attention_heads": "num_heads",
            "norm_eps": "norm_epsilon",
            "attention_dropout": "attention_dropout_rate",
            "mlp_dropout": "dropout_rate",
            "tie_word_embeddings": "tie_embeddings",
        },
        defaults={
            "vocab_size": 50368, "max_position_embeddings": 8192, "hidden_size": 768, "intermediate_size": 1152,
            "num_hidden_layers": 22, "num_attention_heads": 12, "norm_eps": 1e-5, "attention_dropout": 0.0,
            "mlp_dropout": 0.0, "tie_word_embeddings": True, "hidden_activation": "gelu",
            "classifier_activation": "gelu", "classifier_pooling": "cls", "decoder_bias": True, "layer_types": None,
            "global_attn_every_n_layers": 3, "local_attention": 128, "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0, "rope_parameters": None,
        },
        fixed={
            "norm_bias": (False,), "attention_bias": (False,), "mlp_bias": (False,), "classifier_bias": (False,),
            "position_embedding_type": ("absolute", "rope"),
        },
        free=frozenset(
            ("embedding_dropout", "classifier_dropout", "initializer_cutoff_factor", "deterministic_flash_attn",
             "sparse_prediction", "sparse_pred_ignore_index", "reference_compile", "repad_logits_with_grad",
             "layer_norm_eps")
        ),
        model={
            "architecture": "encoder", "norm": "layernorm", "norm_position": "pre", "positions": "rotary",
            "embedding_norm": True, "num_token_types": 0, "use_bias": False, "first_attention_norm": False,
        },
        translated=frozenset(
            ("hidden_activation", "classifier_activation", "classifier_pooling", "decoder_bias", "layer_types",
             "global_attn_every_n_layers", "local_attention", "global_rope_theta", "local_rope_theta", "rope_parameters")
        ),
        to_model=_to_model,
        to_theirs=_to_theirs,
    ),
)  # fmt: skip
