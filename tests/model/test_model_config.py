"""Presets, overrides, and the sentences for values that do not fit."""

import re

import pytest
from tiny_models import ARGUMENTS, tiny_config

from jaxdp import defaults
from jaxdp.errors import UserError
from jaxdp.model import CHOICES, PRESETS, TransformerConfig, model_config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"embed_dim": 18}, "model.embed_dim = 18 is not divisible by model.num_heads = 4"),
        ({"num_kv_heads": 3}, "model.num_heads = 4 is not divisible by model.num_kv_heads = 3"),
        ({"embed_dim": 12, "positions": "rotary"}, "model.embed_dim / model.num_heads) = 3 is odd"),
        ({"head_dim": -1}, "model.head_dim is -1; set it to an integer of at least 1."),
        ({"attention_scale": 0.0}, "model.attention_scale is 0.0; set it above 0."),
        ({"embedding_scale": float("inf")}, "model.embedding_scale is inf; set it above 0."),
        ({"norm_offset": 2.0}, "model.norm_offset is 2.0; set it between 0 and 1."),
        ({"embed_dim": 15, "num_heads": 1, "num_kv_heads": 1, "positions": "sinusoidal"}, "model.embed_dim = 15"),
        ({"norm": "batchnorm"}, "model.norm is 'batchnorm'; choose one of: layernorm, rmsnorm."),
        ({"positions": "alibi"}, "model.positions is 'alibi'"),
        ({"dtype": "auto"}, "model.dtype is 'auto'; choose one of: float32, bfloat16."),
        ({"dropout_rate": 1.0}, "model.dropout_rate is 1.0"),
        ({"dropout_rate": -0.1}, "model.dropout_rate is -0.1"),
        ({"attention_dropout_rate": 1.0}, "model.attention_dropout_rate is 1.0"),
        ({"attention_window": -1}, "model.attention_window is -1; set it to an integer of at least 0."),
        ({"attention_logit_softcap": -2.0}, "model.attention_logit_softcap is -2.0; set it above 0"),
        ({"attention_logit_softcap": float("nan")}, "model.attention_logit_softcap is nan"),
        ({"logit_softcap": -2.0}, "model.logit_softcap is -2.0; set it above 0, or to 0 for no bound."),
        (
            {"logit_softcap": 15.0, "head": "classification", "num_labels": 2},
            "model.logit_softcap = 15.0 bounds the logits of a vocabulary, which a classifier does not have",
        ),
        ({"output_scale": -1.0}, "model.output_scale is -1.0; set it above 0."),
        ({"position_offset": -1}, "model.position_offset is -1; set it to an integer of at least 0."),
        ({"position_offset": 2, "positions": "rotary"}, "model.position_offset = 2 needs model.positions = learned"),
        ({"relative_buckets": 30}, "model.relative_buckets is 30; set it to a multiple of 4"),
        (
            {"relative_max_distance": 16},
            "model.relative_max_distance is 16; set it above model.relative_buckets / 2 = 16",
        ),
        ({"rope_scaling": "ntk"}, "model.rope_scaling is 'ntk'; choose one of: none, linear, llama3, yarn."),
        ({"rope_scaling": "yarn"}, "model.rope_scaling = yarn needs model.positions = rotary, found learned"),
        ({"rope_factor": 0.5}, "model.rope_factor is 0.5; set it to at least 1."),
        (
            {"rope_low_freq_factor": 4.0},
            "model.rope_high_freq_factor is 4.0; set it above model.rope_low_freq_factor = 4",
        ),
        ({"rope_original_length": 0}, "model.rope_original_length is 0; set it to an integer of at least 1."),
        ({"rotary_fraction": 0.3, "positions": "rotary"}, "model.rotary_fraction is 0.3; set it above 0"),
        ({"rotary_local_base": 10.0}, "model.rotary_local_base = 10.0 is for layers with a window"),
        ({"attention_window_pattern": (1, 0)}, "model.attention_window_pattern = (1, 0) needs the number of tokens"),
        (
            {"attention_window_pattern": (1, 2)},
            "model.attention_window_pattern is (1, 2); set it to a tuple of 0 and 1",
        ),
        (
            {"first_attention_norm": False, "scan_layers": True},
            "model.first_attention_norm = False needs model.scan_layers",
        ),
        (
            {"first_attention_norm": False, "norm_position": "post"},
            "found scan_layers = False and norm_position = post",
        ),
        ({"pooler": "sum"}, "model.pooler is 'sum'; choose one of: auto, none, tanh, relu, gelu_norm."),
        ({"num_layers": 0}, "model.num_layers is 0"),
        ({"rotary_base": 0.0}, "model.rotary_base is 0.0"),
        ({"num_layer": 3}, "model.num_layer is not a key of the model; did you mean num_layers?"),
    ],
)
def test_a_value_that_does_not_fit_is_named(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        tiny_config(**overrides)


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(UserError, match=r"'gpt2_larg'; did you mean gpt2_large\? Valid are: nano"):
        model_config("gpt2_larg", {}, vocab_size=5, max_length=4)


def test_an_empty_row_is_refused_under_the_users_name():
    with pytest.raises(UserError, match=r"data\.length is 0"):
        model_config("nano", {}, vocab_size=5, max_length=0)


def test_an_override_beats_the_preset_and_none_does_not():
    config = model_config("nano", {"embed_dim": 64, "num_layers": None}, vocab_size=5, max_length=4)
    assert (config.embed_dim, config.mlp_dim, config.num_layers, config.num_kv_heads) == (64, 256, 4, 4)


def test_attention_drops_out_at_the_common_rate_unless_it_has_its_own():
    rates = [
        (config.dropout_rate, config.attention_dropout_rate, config.has_dropout)
        for config in (
            tiny_config(dropout_rate=0.3),
            tiny_config(dropout_rate=0.3, attention_dropout_rate=0.0),
            tiny_config(attention_dropout_rate=0.1),
            tiny_config(),
        )
    ]
    assert rates == [(0.3, 0.3, True), (0.3, 0.0, True), (0.0, 0.1, True), (0.0, 0.0, False)]


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_complete_and_take_the_default_configuration(preset):
    overrides = defaults.get_config().model.to_dict() | {"dtype": "float32"}
    del overrides["preset"], overrides["vocab_size"]
    config = model_config(preset, overrides, vocab_size=5, max_length=4)
    given = {key for key, value in overrides.items() if value is not None}
    fields = set(TransformerConfig.__dataclass_fields__) - ARGUMENTS
    assert set(PRESETS[preset]) | given == fields >= set(overrides)
    assert all(getattr(config, key) in choices for key, choices in CHOICES.items())
