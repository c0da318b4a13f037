"""Model presets: complete configurations of published architectures by name.

In a preset None stands for a value that follows from others, as `DERIVED` says.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxdp.errors import UserError
from jaxdp.model.config import TransformerConfig
from jaxdp.nearest import closest


def _gpt2(num_layers: int, num_heads: int, embed_dim: int) -> dict:
    """Builds a GPT-2 preset.

    Source: Radford et al. 2019, table 2; tanh approximation of GELU as in the released code.
    """
    return {
        "architecture": "decoder",
        "num_layers": num_layers,
        "num_decoder_layers": None,
        "num_heads": num_heads,
        "num_kv_heads": None,
        "embed_dim": embed_dim,
        "head_dim": None,
        "mlp_dim": None,
        "dropout_rate": 0.1,
        "attention_dropout_rate": None,
        "attention_window": 0,
        "attention_window_pattern": (),
        "attention_logit_softcap": 0.0,
        "attention_scale": None,
        "qkv_bias": None,
        "qk_norm": False,
        "zero_init_residual": False,
        "residual_scalars": False,
        "output_bias": None,
        "output_scale": 1.0,
        "value_embeddings": False,
        "logit_softcap": 0.0,
        "norm": "layernorm",
        "norm_position": "pre",
        "first_attention_norm": True,
        "norm_epsilon": 1e-5,
        "norm_offset": 0.0,
        "embedding_norm": False,
        "embedding_scale": None,
        "positions": "learned",
        "position_offset": 0,
        "relative_buckets": 32,
        "relative_max_distance": 128,
        "rotary_base": 10000.0,
        "rotary_local_base": 0.0,
        "rotary_fraction": 1.0,
        "rope_scaling": "none",
        "rope_factor": 1.0,
        "rope_low_freq_factor": 1.0,
        "rope_high_freq_factor": 4.0,
        "rope_original_length": 8192,
        "rope_attention_factor": 0.0,
        "num_token_types": 0,
        "activation": "gelu_tanh",
        "use_bias": True,
        "tie_embeddings": True,
        "share_embeddings": False,
        "pooler": "auto",
        "classifier_bias": True,
        "loss_chunk": None,
        "lora_rank": 0,
        "lora_alpha": 0.0,
        "lora_layers": ("attention/query", "attention/value"),
    }


def _llama(
    num_layers: int, num_heads: int, num_kv_heads: int, embed_dim: int, mlp_dim: int, rotary_base: float
) -> dict:
    """Builds a Llama 3 preset.

    Source: Grattafiori et al. 2024, table 3; Llama 3.2 model card. Differs: rotary
    frequencies are not rescaled for contexts beyond 8192 tokens.
    """
    return _gpt2(num_layers, num_heads, embed_dim) | {
        "num_kv_heads": num_kv_heads,
        "mlp_dim": mlp_dim,
        "dropout_rate": 0.0,
        "norm": "rmsnorm",
        "positions": "rotary",
        "rotary_base": rotary_base,
        "activation": "swiglu",
        "use_bias": False,
    }


def _bert(num_layers: int, embed_dim: int) -> dict:
    """Builds a BERT preset, with 64 features per head.

    Source: Devlin et al. 2019, section 3; small models: Turc et al. 2019, table 1.
    """
    return _gpt2(num_layers, embed_dim // 64, embed_dim) | {
        "architecture": "encoder",
        "norm_position": "post",
        "norm_epsilon": 1e-12,
        "embedding_norm": True,
        "num_token_types": 2,
        "activation": "gelu",
    }


def _vaswani(num_layers: int, num_heads: int, embed_dim: int, dropout_rate: float) -> dict:
    """Builds a preset of the original Transformer.

    Source: Vaswani et al. 2017, table 3; shared embeddings: section 3.4. Differs: all
    dense layers have biases; in the paper only the MLP has them.
    """
    return _gpt2(num_layers, num_heads, embed_dim) | {
        "architecture": "encoder_decoder",
        "dropout_rate": dropout_rate,
        "norm_position": "post",
        "norm_epsilon": 1e-6,
        "positions": "sinusoidal",
        "activation": "relu",
        "share_embeddings": True,
    }


def _t5(num_layers: int, num_heads: int, embed_dim: int) -> dict:
    """Builds a T5 preset.

    Source: Raffel et al. 2020, section 2.1, and its released code. Differs: scores are
    scaled by `1 / sqrt(head_dim)` and logits are not scaled (both can be folded into
    parameters); no dropout inside the MLP.
    """
    return _gpt2(num_layers, num_heads, embed_dim) | {
        "architecture": "encoder_decoder",
        "norm": "rmsnorm",
        "norm_epsilon": 1e-6,
        "positions": "relative",
        "activation": "relu",
        "use_bias": False,
        "share_embeddings": True,
    }


PRESETS: dict[str, dict] = {
    # nanoGPT's recipe for a laptop without a GPU (config/train_shakespeare_char.py, README).
    "nano": _gpt2(4, 4, 128) | {"activation": "gelu", "use_bias": False, "dropout_rate": 0.0},
    "gpt2": _gpt2(12, 12, 768),
    "gpt2_medium": _gpt2(24, 16, 1024),
    "gpt2_large": _gpt2(36, 20, 1280),
    "gpt2_xl": _gpt2(48, 25, 1600),
    # Llama architecture at nano size; the MLP width is 8/3 of embed_dim, rounded up to a multiple of 128.
    "llama_nano": _llama(4, 4, 2, 128, 384, 10000.0),
    "llama3_1b": _llama(16, 32, 8, 2048, 8192, 500000.0),
    # BERT architecture at nano size for CPUs; pre-norm trains without a long warm-up.
    "encoder_nano": _bert(4, 128)
    | {"num_heads": 4, "norm_position": "pre", "embedding_norm": False, "num_token_types": 0},
    "bert_tiny": _bert(2, 128),
    "bert_mini": _bert(4, 256),
    "bert_small": _bert(4, 512),
    "bert_medium": _bert(8, 512),
    "bert_base": _bert(12, 768),
    "bert_large": _bert(24, 1024),
    # Small encoder-decoder for CPUs; pre-norm trains without a long warm-up.
    "seq2seq_nano": _vaswani(3, 4, 256, 0.1) | {"norm_position": "pre"},
    "transformer_base": _vaswani(6, 8, 512, 0.1),
    "transformer_big": _vaswani(6, 16, 1024, 0.3),
    "t5_small": _t5(6, 8, 512),
    "t5_base": _t5(12, 12, 768),
}


def model_config(
    preset: str,
    overrides: Mapping[str, Any],
    *,
    vocab_size: int,
    max_length: int,
    target_vocab_size: int | None = None,
    max_target_length: int | None = None,
    head: str = "language_model",
    num_labels: int = 0,
    pooling: str = "first",
    platform: str = "cpu",
) -> TransformerConfig:
    """Builds the configuration of a preset with overrides.

    Args:
        preset: Name of a preset, a key of `PRESETS`.
        overrides: Values that replace those of the preset, by key of `config.model` except
            `preset` and `vocab_size`; None keeps the preset's value. `dtype` must be
            "float32" or "bfloat16", not "auto".
        vocab_size: Vocabulary size of the tokens.
        max_length: Maximum sequence length in tokens.
        target_vocab_size: Vocabulary size of the target in an encoder-decoder; None: `vocab_size`.
        max_target_length: Maximum target length in an encoder-decoder; None: `max_length`.
        head: Model head: "language_model", "masked_lm", "classification" or "none".
        num_labels: Number of classes of a classifier.
        pooling: Pooling of a classifier: "first", "mean" or "last".
        platform: Platform of the devices that the model runs on: "cpu", "gpu" or "tpu".

    Raises:
        UserError: The preset or a key is unknown, or a value is invalid.
    """
    if preset not in PRESETS:
        raise UserError(f"model.preset is {preset!r}{_nearest(preset, PRESETS)}")
    given = {
        "vocab_size": vocab_size,
        "target_vocab_size": vocab_size if target_vocab_size is None else target_vocab_size,
        "max_length": max_length,
        "max_target_length": max_length if max_target_length is None else max_target_length,
        "head": head,
        "num_labels": num_labels,
        "pooling": pooling,
        "platform": platform,
    }
    known = [key for key in TransformerConfig.__dataclass_fields__ if key not in given]
    for key in overrides:
        if key not in known:
            raise UserError(f"model.{key} is not a key of the model{_nearest(key, known)}")
    return TransformerConfig(**given, **preset_values(preset, overrides))


def preset_values(preset: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all values of a preset, updated with the overrides that are not None; without validation."""
    values = PRESETS[preset] | {key: value for key, value in overrides.items() if value is not None}
    for key, derive in DERIVED.items():
        if values[key] is None:
            values[key] = derive(values)
    return values


def _head_dim(values: Mapping[str, Any]) -> int:
    """Returns the width of a head, or 0 if heads cannot have equal width, which `TransformerConfig` refuses."""
    num_heads = values["num_heads"]
    return values["embed_dim"] // num_heads if num_heads > 0 and values["embed_dim"] % num_heads == 0 else 0


DERIVED: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "num_kv_heads": lambda values: values["num_heads"],
    "head_dim": _head_dim,
    "mlp_dim": lambda values: 4 * values["embed_dim"],
    "num_decoder_layers": lambda values: values["num_layers"],
    "attention_dropout_rate": lambda values: values["dropout_rate"],
    "attention_scale": lambda values: 1 / math.sqrt(max(values["head_dim"], 1)),
    "qkv_bias": lambda values: values["use_bias"],
    "embedding_scale": lambda values: (
        math.sqrt(max(values["embed_dim"], 1)) if values["positions"] == "sinusoidal" else 1.0
    ),
}
"""Key -> function of all values that returns the value of a key that is None; a function may read the keys before it."""


def _nearest(name: str, known) -> str:
    """Returns the end of an error message: the nearest valid name, and all valid names."""
    near = closest(name, known)
    return f"{f'; did you mean {near}?' if near else '.'} Valid are: {', '.join(known)}."
