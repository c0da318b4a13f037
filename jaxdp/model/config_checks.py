"""Validation of a Transformer configuration: value ranges, and combinations that the model does not support."""

import math
import re
from typing import TYPE_CHECKING

from jaxdp.errors import UserError
from jaxdp.model.choices import CHOICES, GATED_UNITS, HEADS, POOLINGS
from jaxdp.model.lora import dense_layers

if TYPE_CHECKING:
    from jaxdp.model.config import TransformerConfig

_COUNTS = (
    "vocab_size",
    "target_vocab_size",
    "max_length",
    "max_target_length",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
    "num_kv_heads",
    "embed_dim",
    "mlp_dim",
)

DATA_KEYS = {"max_length": "data.length", "max_target_length": "data.target_length"}
"""Keys of `data` that set a size of the model."""


def check_config(config: "TransformerConfig") -> None:
    """Checks a configuration.

    Raises:
        UserError: A value is out of range, or two values are incompatible.
    """
    _check_choices(config)
    _check_numbers(config)
    _check_parts(config)


def _check_choices(config: "TransformerConfig") -> None:
    for key, choices in CHOICES.items():
        value = getattr(config, key)
        if value not in choices:
            raise UserError(f"model.{key} is {value!r}; choose one of: {', '.join(choices)}.")


def _check_numbers(config: "TransformerConfig") -> None:
    for key in _COUNTS:
        value = getattr(config, key)
        if not isinstance(value, int) or value < 1:
            name = DATA_KEYS.get(key, f"model.{key}")
            raise UserError(f"{name} is {value!r}; set it to an integer of at least 1.")
    if config.head_dim == 0:
        raise UserError(
            f"model.embed_dim = {config.embed_dim} is not divisible by model.num_heads = "
            f"{config.num_heads}; change one of them so that all heads have equal width, or set model.head_dim."
        )
    if not isinstance(config.head_dim, int) or config.head_dim < 0:
        raise UserError(f"model.head_dim is {config.head_dim!r}; set it to an integer of at least 1.")
    if config.num_heads % config.num_kv_heads:
        raise UserError(
            f"model.num_heads = {config.num_heads} is not divisible by model.num_kv_heads = "
            f"{config.num_kv_heads}; set model.num_kv_heads to a divisor of it."
        )
    for key in ("dropout_rate", "attention_dropout_rate"):
        if not 0 <= getattr(config, key) < 1:
            raise UserError(f"model.{key} is {getattr(config, key)}; set it to at least 0 and below 1.")
    for key in ("attention_logit_softcap", "logit_softcap"):
        if not 0 <= getattr(config, key) < math.inf:
            raise UserError(f"model.{key} is {getattr(config, key)}; set it above 0, or to 0 for no bound.")
    for key in (
        "rotary_base",
        "norm_epsilon",
        "attention_scale",
        "embedding_scale",
        "output_scale",
        "rope_low_freq_factor",
    ):
        if not 0 < getattr(config, key) < math.inf:
            raise UserError(f"model.{key} is {getattr(config, key)}; set it above 0.")
    if not 0 <= config.norm_offset <= 1:
        raise UserError(f"model.norm_offset is {config.norm_offset}; set it between 0 and 1.")
    for key in ("num_token_types", "attention_window", "position_offset"):
        if not isinstance(getattr(config, key), int) or getattr(config, key) < 0:
            raise UserError(f"model.{key} is {getattr(config, key)!r}; set it to an integer of at least 0.")
    _check_positions(config)
    _check_rope_scaling(config)
    _check_window_pattern(config)
    _check_lora(config)
    if config.loss_chunk is not None and config.loss_chunk < 0:
        raise UserError(f"model.loss_chunk is {config.loss_chunk}; set it to a number of tokens, or 0 for all.")


def _check_positions(config: "TransformerConfig") -> None:
    """Raises for settings of positions that do not fit."""
    if config.positions == "rotary" and config.head_dim % 2:
        raise UserError(
            f"model.positions = rotary needs an even head width, but model.head_dim (unset: model.embed_dim / "
            f"model.num_heads) = {config.head_dim} is odd; change one of them."
        )
    if config.positions == "rotary" and (not 0 < config.rotary_fraction <= 1 or config.rotary_dim % 2):
        raise UserError(
            f"model.rotary_fraction is {config.rotary_fraction}; set it above 0 and to at most 1, so that an even "
            f"number of the {config.head_dim} features of a head rotates."
        )
    if config.positions == "sinusoidal" and config.embed_dim % 2:
        raise UserError(
            f"model.positions = sinusoidal needs an even width, but model.embed_dim = "
            f"{config.embed_dim} is odd; set it to an even number."
        )
    if config.position_offset and config.positions != "learned":
        raise UserError(
            f"model.position_offset = {config.position_offset} needs model.positions = learned, found "
            f"{config.positions}; set it to 0."
        )
    buckets, distance = config.relative_buckets, config.relative_max_distance
    if not isinstance(buckets, int) or buckets < 4 or buckets % 4:
        raise UserError(f"model.relative_buckets is {buckets!r}; set it to a multiple of 4, at least 4.")
    if not isinstance(distance, int) or distance <= buckets // 2:
        raise UserError(
            f"model.relative_max_distance is {distance!r}; set it above model.relative_buckets / 2 = {buckets // 2}."
        )


def _check_rope_scaling(config: "TransformerConfig") -> None:
    """Raises for settings of scaled rotary positions that do not fit."""
    if config.rope_scaling != "none" and config.positions != "rotary":
        raise UserError(
            f"model.rope_scaling = {config.rope_scaling} needs model.positions = rotary, found {config.positions}; set "
            "it to none."
        )
    if not 1 <= config.rope_factor < math.inf:
        raise UserError(f"model.rope_factor is {config.rope_factor}; set it to at least 1.")
    if config.rope_high_freq_factor <= config.rope_low_freq_factor:
        raise UserError(
            f"model.rope_high_freq_factor is {config.rope_high_freq_factor}; set it above model.rope_low_freq_factor = "
            f"{config.rope_low_freq_factor}."
        )
    if not isinstance(config.rope_original_length, int) or config.rope_original_length < 1:
        raise UserError(
            f"model.rope_original_length is {config.rope_original_length!r}; set it to an integer of at least 1."
        )
    for key in ("rotary_local_base", "rope_attention_factor"):
        if not 0 <= getattr(config, key) < math.inf:
            raise UserError(f"model.{key} is {getattr(config, key)}; set it to at least 0.")


def _check_lora(config: "TransformerConfig") -> None:
    """Raises for adapters of layers that the model does not have."""
    rank, alpha, patterns = config.lora_rank, config.lora_alpha, config.lora_layers
    if not isinstance(rank, int) or rank < 0:
        raise UserError(f"model.lora_rank is {rank!r}; set it to an integer of at least 1, or to 0 for no adapters.")
    if not rank:
        return
    if not 0 <= alpha < math.inf:
        raise UserError(f"model.lora_alpha is {alpha}; set it above 0, or to 0 for lora_rank.")
    layers = dense_layers(has_gate=config.activation in GATED_UNITS, has_source=config.has_source)
    if not isinstance(patterns, tuple) or not patterns:
        raise UserError(
            f"model.lora_layers is {patterns!r}; set it to a tuple of regular expressions of {', '.join(layers)}."
        )
    for pattern in patterns:
        try:
            matches = any(re.fullmatch(pattern, layer) for layer in layers)
        except (re.error, TypeError) as error:
            raise UserError(
                f"model.lora_layers has {pattern!r}, which is not a regular expression: {error}."
            ) from error
        if not matches:
            raise UserError(
                f"model.lora_layers has {pattern!r}, which matches no dense layer of this model; it has {', '.join(layers)}."
            )


def _check_window_pattern(config: "TransformerConfig") -> None:
    """Raises for layers that differ from each other in a way that the model does not support."""
    pattern = config.attention_window_pattern
    if not isinstance(pattern, tuple) or any(flag not in (0, 1) for flag in pattern):
        raise UserError(
            f"model.attention_window_pattern is {pattern!r}; set it to a tuple of 0 and 1, such as (1, 1, 0), or to ()."
        )
    if any(pattern) and not config.attention_window:
        raise UserError(
            f"model.attention_window_pattern = {pattern} needs the number of tokens in the window; set "
            "model.attention_window."
        )
    if config.rotary_local_base and not config.attention_window:
        raise UserError(
            f"model.rotary_local_base = {config.rotary_local_base} is for layers with a window, but the model has none; "
            "set model.attention_window, or model.rotary_local_base to 0."
        )
    if not config.first_attention_norm and (config.scan_layers or not config.has_input_norms):
        raise UserError(
            "model.first_attention_norm = False needs model.scan_layers = False and model.norm_position = pre or both, "
            f"found scan_layers = {config.scan_layers} and norm_position = {config.norm_position}."
        )


def _check_parts(config: "TransformerConfig") -> None:
    """Raises for embeddings and heads that the architecture does not support."""
    if config.head not in HEADS or config.pooling not in POOLINGS:
        raise ValueError(f"unknown head {config.head!r} or pooling {config.pooling!r}")
    if (config.num_labels > 0) != (config.head == "classification"):
        raise ValueError(f"num_labels = {config.num_labels} with the head {config.head}")
    if config.architecture not in HEADS[config.head]:
        fitting = " or ".join(HEADS[config.head])
        raise UserError(
            f"model.architecture = {config.architecture} does not support the head {config.head}; choose a "
            f"model.preset whose architecture is {fitting}."
        )
    if config.head == "classification" and config.logit_softcap:
        raise UserError(
            f"model.logit_softcap = {config.logit_softcap} bounds the logits of a vocabulary, which a classifier does not "
            "have; set it to 0."
        )
    if config.has_source and config.num_token_types:
        raise UserError(
            f"model.num_token_types = {config.num_token_types}, but an encoder_decoder has no token types; set it to 0."
        )
    if config.has_source and config.share_embeddings and config.vocab_size != config.target_vocab_size:
        raise UserError(
            f"model.share_embeddings needs one vocabulary, but the source has {config.vocab_size} "
            f"tokens and the target {config.target_vocab_size}; set it to False or use one tokenizer."
        )
