"""Marian (Junczys-Dowmunt et al. 2018), the translation models of OPUS-MT: tensors and configuration of Hugging Face."""

from collections.abc import Mapping
from typing import Any

from jaxdp.errors import UserError
from jaxdp.interop.families.family import Architecture, ConfigKeys, Family, Row, activation_key


def _both(theirs: str, ours: str, *, is_norm: bool = False) -> tuple[Row, ...]:
    """Returns the rows of weight and bias."""
    return (
        (f"{theirs}.weight", f"{ours}/{'scale' if is_norm else 'kernel.T'}"),
        (f"{theirs}.bias", f"{ours}/bias"),
    )


def _layer(stack: str) -> tuple[Row, ...]:
    """Returns the rows of a layer of the encoder or decoder."""
    theirs, ours = f"{stack}.layers.{{}}", f"{stack}/layer_{{}}"
    attentions = {"self_attn": "attention"} | ({"encoder_attn": "cross_attention"} if stack == "decoder" else {})
    rows: list[Row] = []
    for name, path in attentions.items():
        for one, other in {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}.items():
            rows += _both(f"{theirs}.{name}.{one}", f"{ours}/{path}/{other}")
        rows += _both(f"{theirs}.{name}_layer_norm", f"{ours}/{path}_norm", is_norm=True)
    rows += _both(f"{theirs}.fc1", f"{ours}/mlp/up") + _both(f"{theirs}.fc2", f"{ours}/mlp/down")
    return (*rows, *_both(f"{theirs}.final_layer_norm", f"{ours}/mlp_norm", is_norm=True))


_activation_to_model, _activation_to_theirs = activation_key(
    "activation_function", {"swish": "silu", "silu": "silu", "relu": "relu", "gelu": "gelu"}
)

_EQUAL = {"encoder_attention_heads": "decoder_attention_heads", "encoder_ffn_dim": "decoder_ffn_dim"}
"""Key of the encoder -> key of the decoder with the same value."""


def _to_model(values: Mapping[str, Any]) -> dict[str, Any]:
    for encoder, decoder in _EQUAL.items():
        if values[encoder] != values[decoder]:
            raise UserError(
                f"{decoder}={values[decoder]} with {encoder}={values[encoder]} of config.json is not supported; expected "
                "equal values."
            )
    if values["decoder_vocab_size"] not in (None, values["vocab_size"]):
        raise UserError(
            f"decoder_vocab_size={values['decoder_vocab_size']} with vocab_size={values['vocab_size']} of config.json is "
            "not supported; expected one vocabulary."
        )
    return _activation_to_model(values) | {
        "embedding_scale": values["d_model"] ** 0.5 if values["scale_embedding"] else 1.0
    }


def _to_theirs(model: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_activation_to_theirs(model),
        "decoder_attention_heads": model["num_heads"],
        "decoder_ffn_dim": model["mlp_dim"],
        "decoder_vocab_size": model["vocab_size"],
        "scale_embedding": model["embedding_scale"] != 1,
    }


MARIAN = Family(
    model_type="marian",
    body=(("shared.weight", "token_embedding"), *_layer("encoder"), *_layer("decoder")),
    prefixes=("model.",),
    ignored=((r"(encoder|decoder)\.embed_positions\.weight", "sinusoidal positions, which have no learned values"),),
    architectures={
        "MarianMTModel": Architecture(
            task="seq2seq",
            prefix="model.",
            head=(("final_logits_bias", "output_bias.1"),),
            equal=(("encoder.embed_tokens.weight", "shared.weight"), ("decoder.embed_tokens.weight", "shared.weight")),
            tied=(("lm_head.weight", "shared.weight"),),
        ),
    },
    config=ConfigKeys(
        same={
            "vocab_size": "vocab_size",
            "max_position_embeddings": "max_length",
            "d_model": "embed_dim",
            "encoder_layers": "num_layers",
            "decoder_layers": "num_decoder_layers",
            "encoder_attention_heads": "num_heads",
            "encoder_ffn_dim": "mlp_dim",
            "dropout": "dropout_rate",
            "attention_dropout": "attention_dropout_rate",
        },
        defaults={
            "vocab_size": 58101, "max_position_embeddings": 1024, "d_model": 1024, "encoder_layers": 12,
            "decoder_layers": 12, "encoder_attention_heads": 16, "decoder_attention_heads": 16, "encoder_ffn_dim": 4096,
            "decoder_ffn_dim": 4096, "dropout": 0.1, "attention_dropout": 0.0, "activation_function": "gelu",
            "decoder_vocab_size": None, "scale_embedding": False,
        },
        fixed={
            "tie_word_embeddings": (True,),
            "share_encoder_decoder_embeddings": (True,),
            "static_position_embeddings": (True,),
            "normalize_before": (False,),
            "normalize_embedding": (False,),
            "add_final_layer_norm": (False,),
            "add_bias_logits": (False,),
            "is_decoder": (False,),
        },
        free=frozenset(
            ("activation_dropout", "encoder_layerdrop", "decoder_layerdrop", "classif_dropout", "classifier_dropout",
             "num_hidden_layers", "init_std", "extra_pos_embeddings", "decoder_start_token_id")
        ),
        model={
            "architecture": "encoder_decoder", "norm": "layernorm", "norm_position": "post", "norm_epsilon": 1e-5,
            "positions": "sinusoidal", "use_bias": True, "share_embeddings": True, "embedding_norm": False,
            "num_token_types": 0, "output_bias": True, "tie_embeddings": True,
        },
        translated=frozenset(("activation_function", "decoder_vocab_size", "scale_embedding", *_EQUAL.values())),
        to_model=_to_model,
        to_theirs=_to_theirs,
    ),
)  # fmt: skip
