"""T5 1.0 (Raffel et al. 2020), T5 1.1 and mT5 (Xue et al. 2021): tensors and configuration of Hugging Face."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdp.errors import UserError
from jaxdp.interop.families.family import Architecture, ConfigKeys, Family, Row, encoder_of


def _attention(theirs: str, ours: str) -> tuple[Row, ...]:
    """Returns the rows of an attention with the norm before it, from the first parts of both names."""
    names = {"q": "query", "k": "key", "v": "value", "o": "out"}
    return tuple((f"{theirs}.{one}.weight", f"{ours}/{other}/kernel.T") for one, other in names.items())


def _mlp(theirs: str, ours: str) -> tuple[Row, ...]:
    """Returns the rows of an MLP, with a gate or without."""
    return (
        (f"{theirs}.wi.weight", f"{ours}/up/kernel.T!{ours}/gate/kernel"),
        (f"{theirs}.wi_0.weight", f"{ours}/gate/kernel.T"),
        (f"{theirs}.wi_1.weight", f"{ours}/up/kernel.T?{ours}/gate/kernel"),
        (f"{theirs}.wo.weight", f"{ours}/down/kernel.T"),
    )


RELATIVE = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"

BODY: tuple[Row, ...] = (
    ("shared.weight", "token_embedding"),
    (f"encoder.{RELATIVE}", "encoder/relative_embedding"),
    ("encoder.block.{}.layer.0.layer_norm.weight", "encoder/layer_{}/attention_norm/scale"),
    *_attention("encoder.block.{}.layer.0.SelfAttention", "encoder/layer_{}/attention"),
    ("encoder.block.{}.layer.1.layer_norm.weight", "encoder/layer_{}/mlp_norm/scale"),
    *_mlp("encoder.block.{}.layer.1.DenseReluDense", "encoder/layer_{}/mlp"),
    ("encoder.final_layer_norm.weight", "encoder/final_norm/scale"),
    (f"decoder.{RELATIVE}", "decoder/relative_embedding"),
    ("decoder.block.{}.layer.0.layer_norm.weight", "decoder/layer_{}/attention_norm/scale"),
    *_attention("decoder.block.{}.layer.0.SelfAttention", "decoder/layer_{}/attention"),
    ("decoder.block.{}.layer.1.layer_norm.weight", "decoder/layer_{}/cross_attention_norm/scale"),
    *_attention("decoder.block.{}.layer.1.EncDecAttention", "decoder/layer_{}/cross_attention"),
    ("decoder.block.{}.layer.2.layer_norm.weight", "decoder/layer_{}/mlp_norm/scale"),
    *_mlp("decoder.block.{}.layer.2.DenseReluDense", "decoder/layer_{}/mlp"),
    ("decoder.final_layer_norm.weight", "decoder/final_norm/scale"),
)

ACTIVATIONS = {
    "relu": ("relu", False, "relu"),
    "gelu": ("gelu", False, "gelu"),
    "gelu_new": ("gelu_tanh", False, "gelu_new"),
    "gated-gelu": ("geglu_tanh", True, "gelu_new"),  # not the exact one, whatever its name says
    "gated-silu": ("swiglu", True, "silu"),
}
"""feed_forward_proj -> activation of the model, and the keys is_gated_act and dense_act_fn that repeat it."""


def _to_model(values: Mapping[str, Any], *, scale: bool) -> dict[str, Any]:
    """Translates what needs code.

    Args:
        values: Keys of config.json.
        scale: Whether hidden states are scaled before the output layer.
    """
    name = values["feed_forward_proj"]
    if name not in ACTIVATIONS:
        raise UserError(
            f"feed_forward_proj={name!r} of config.json is not supported; supported are {', '.join(ACTIVATIONS)}."
        )
    activation, *repeated = ACTIVATIONS[name]
    for key, expected in zip(("is_gated_act", "dense_act_fn"), repeated, strict=True):
        if values[key] not in (None, expected):
            raise UserError(f"{key}={values[key]!r} of config.json contradicts feed_forward_proj={name!r}.")
    return {
        "activation": activation,
        "num_decoder_layers": values["num_decoder_layers"] or values["num_layers"],
        "attention_dropout_rate": values["dropout_rate"],
        "output_scale": values["d_model"] ** -0.5 if scale else 1.0,
        # Models whose hidden states are not scaled have an output layer of their own, whatever transformers 5 writes.
        "tie_embeddings": scale,
    }


def _t5_to_model(values: Mapping[str, Any]) -> dict[str, Any]:
    scale = values["scale_decoder_outputs"]
    return _to_model(values, scale=values["tie_word_embeddings"] is not False if scale is None else scale)


def _to_theirs(model: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for name, (activation, *_) in ACTIVATIONS.items() if activation == model["activation"]]
    return {
        "feed_forward_proj": names[0] if names else model["activation"],
        "num_decoder_layers": model["num_decoder_layers"],
        "tie_word_embeddings": model["tie_embeddings"],
    }


CONDITIONAL_GENERATION = Architecture(
    task="seq2seq",
    head=(("lm_head.weight", "output/kernel.T"),),
    equal=(("encoder.embed_tokens.weight", "shared.weight"), ("decoder.embed_tokens.weight", "shared.weight")),
    tied=(("lm_head.weight", "shared.weight"),),
    absent=(("lm_head.weight", "shared.weight"),),
)

ENCODER = dataclasses.replace(
    encoder_of(pooling="mean"),
    body=tuple((theirs, ours.replace("encoder/", "")) for theirs, ours in BODY if theirs.startswith("encoder.")),
    equal=CONDITIONAL_GENERATION.equal[:1],
    ignored=((r"decoder\..*|lm_head\.weight", "decoder, which this architecture does not have"),),
    model={"architecture": "encoder"},
)
"""The encoder alone, whose parameters are those of an encoder without a decoder."""

T5 = Family(
    model_type="t5",
    body=BODY,
    prefixes=(),
    ignored=(
        (
            r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
            "relative positions of cross-attention, which no version of T5 uses",
        ),
    ),
    architectures={
        "T5ForConditionalGeneration": CONDITIONAL_GENERATION,
        "T5EncoderModel": ENCODER,
        "T5WithLMHeadModel": dataclasses.replace(CONDITIONAL_GENERATION, written_as="T5ForConditionalGeneration"),
    },
    config=ConfigKeys(
        same={
            "vocab_size": "vocab_size",
            "n_positions": "max_length",
            "d_model": "embed_dim",
            "d_kv": "head_dim",
            "d_ff": "mlp_dim",
            "num_layers": "num_layers",
            "num_heads": "num_heads",
            "relative_attention_num_buckets": "relative_buckets",
            "relative_attention_max_distance": "relative_max_distance",
            "dropout_rate": "dropout_rate",
            "layer_norm_epsilon": "norm_epsilon",
        },
        defaults={
            "vocab_size": 32128, "n_positions": 512, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6,
            "num_decoder_layers": None, "num_heads": 8, "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128, "dropout_rate": 0.1, "layer_norm_epsilon": 1e-6,
            "feed_forward_proj": "relu", "is_gated_act": None, "dense_act_fn": None, "tie_word_embeddings": True,
            "scale_decoder_outputs": None,
        },
        free=frozenset(("classifier_dropout", "output_past", "use_task_specific_params")),
        model={
            "architecture": "encoder_decoder", "norm": "rmsnorm", "norm_position": "pre", "positions": "relative",
            "use_bias": False, "share_embeddings": True, "attention_scale": 1.0, "embedding_norm": False,
            "num_token_types": 0,
        },
        translated=frozenset(
            ("feed_forward_proj", "is_gated_act", "dense_act_fn", "num_decoder_layers", "tie_word_embeddings",
             "scale_decoder_outputs")
        ),
        to_model=_t5_to_model,
        to_theirs=_to_theirs,
    ),
)  # fmt: skip

MT5 = dataclasses.replace(
    T5,
    model_type="mt5",
    architectures={"MT5ForConditionalGeneration": CONDITIONAL_GENERATION, "MT5EncoderModel": ENCODER},
    config=dataclasses.replace(
        T5.config,
        defaults={
            **{key: value for key, value in T5.config.defaults.items() if key != "scale_decoder_outputs"},
            **{"vocab_size": 250112, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"},
        },
        fixed={"scale_decoder_outputs": (False, None)},
        translated=T5.config.translated - {"scale_decoder_outputs"},
        to_model=lambda values: _to_model(values, scale=False),
    ),
)
