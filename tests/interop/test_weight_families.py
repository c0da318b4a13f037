"""Weight families without torch: random folders against the reference forward passes, and config.json in both directions."""

import dataclasses
import json
from pathlib import Path

import pytest
from family_cases import CASES
from tiers import other_rows_slow, others_slow
from tiny_folders import random_tensors, write_folder

from jaxdp.config import load_config, parse_config
from jaxdp.errors import UserError
from jaxdp.inference.initial_params import with_initial_model
from jaxdp.interop.exporting import export_model
from jaxdp.interop.families.layer_types import FULL, SLIDING, layer_types_of, windows_to_model
from jaxdp.interop.families.registry import FAMILIES
from jaxdp.interop.hf_config import fitting_family, model_differences, read_model, transformer_config, write_model
from jaxdp.interop.hf_folder import HuggingFaceFolder
from jaxdp.interop.importing import import_model
from jaxdp.interop.mapping import tensors_of
from jaxdp.interop.open_source import open_source
from jaxdp.interop.reference.forward import FORWARD
from jaxdp.model import parameter_shapes
from jaxdp.trees import named_leaves

CONFIGS = Path(__file__).parents[2] / "configs"

NEW = [name for name in CASES if not name.startswith("bert") and name not in ("gpt2", "gpt2_untied")]
"""Cases of families without tests of their own."""

QUICK = (
    "distilbert_classifier",
    "modernbert",
    "llama",
    "gemma3",
    "marian",
)
"""A case for each kind of architecture and head; the configurations of all families are compared below."""


def config_json(case, **changes):
    kind, _, values = CASES[case]
    model_type = next(name for name, family in FAMILIES.items() if kind in family.architectures)
    return {"architectures": [kind], "model_type": model_type, **values, **changes}


def folder_tensors(config):
    """Returns random tensors for a config.json, named and shaped by the family's table."""
    spec = read_model(config, "config.json")
    model = transformer_config(spec, config.get("num_labels", 0))
    shapes = {path: leaf.shape for path, leaf in named_leaves(parameter_shapes(model))}
    prefix = spec.architecture.prefix
    return random_tensors(
        {
            (prefix if tensor.in_body else "") + tensor.theirs: tensor.shape(shapes)
            for tensor in tensors_of(spec.family, spec.architecture, shapes)
        }
    )


@pytest.mark.parametrize("case", others_slow(NEW, *QUICK))
def test_a_folder_computes_what_the_reference_computes_and_returns_to_every_byte(tmp_path, case):
    config = config_json(case)
    folder = write_folder(tmp_path / "hf", config, folder_tensors(config))
    out = export_model(import_model(folder, tmp_path / "work"), tmp_path / "out")
    source, found = open_source(folder), open_source(out)
    assert json.loads((out / "config.json").read_text()) == config
    for name in source.arrays:
        assert found.read(name).tobytes() == source.read(name).tobytes()


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_returns_as_it_was(case):
    config = config_json(case)
    spec = read_model(config, "config.json")
    model = transformer_config(spec, config.get("num_labels", 0))
    written = write_model(spec.family, spec.architecture_name, dataclasses.asdict(model), model.max_length)
    again = read_model(written, "config.json")
    assert not model_differences(again, model)
    assert again.max_length == spec.max_length
    if spec.architecture_name == next(iter(spec.family.architectures)):
        assert not model_differences(read_model(write_fitting(spec, model), "config.json"), model)


def write_fitting(spec, model):
    family, name, found = fitting_family(spec.architecture.task, model)
    return write_model(family, name, dataclasses.asdict(found), found.max_length)


@pytest.mark.parametrize(
    ("case", "changes", "match"),
    [
        ("roberta", {"pad_token_id": None}, "pad_token_id=None .* expected a number from 0 to 40"),
        ("roberta", {"hidden_act": "relu"}, "hidden_act='relu' .* supported are gelu"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
            "rope_type='dynamic' .* supported are default",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "llama3", "factor": 2.0}},
            "'llama3' .* needs low_freq_factor, high_",
        ),
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": 0.7}}, "mscale=0.7 with rope_type='yarn'"),
        ("llama", {"attention_bias": True}, "attention_bias=True with mlp_bias=False"),
        ("llama", {"sliding_window": 8}, "sliding_window=8 is not supported"),
        ("qwen3", {"layer_types": ["full_attention", "chunked_attention"]}, "layer_types=.'chunked_attention'. of"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "the size of the window is None"),
        ("modernbert", {"norm_bias": True}, "norm_bias=True is not supported .* expected False"),
        ("modernbert", {"classifier_activation": "relu"}, "classifier_activation='relu' with hidden_activation='gelu'"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True is not supported"),
        (
            "gemma3",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope_parameters of sliding_attention .* expected rope_type=default alone",
        ),
        ("t5", {"feed_forward_proj": "gated-relu"}, "feed_forward_proj='gated-relu' .* supported are relu, gelu"),
        ("t5", {"is_gated_act": True}, "is_gated_act=True of config.json contradicts feed_forward_proj='relu'"),
        ("mt5", {"scale_decoder_outputs": True}, "scale_decoder_outputs=True is not supported .* expected False"),
        ("marian", {"decoder_ffn_dim": 64}, "decoder_ffn_dim=64 with encoder_ffn_dim=48"),
        ("marian", {"normalize_before": True}, "normalize_before=True is not supported .* expected False"),
        ("distilbert", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    ],
)
def test_values_that_the_model_cannot_express_are_refused_by_name(case, changes, match):
    with pytest.raises(UserError, match=match):
        read_model(config_json(case, **changes), "config.json")


def imported_run(tmp_path, config, tensors, name):
    return import_model(write_folder(tmp_path / f"hf_{name}", config, tensors), tmp_path / name)


def test_embeddings_of_t5_by_every_name_and_an_output_layer_that_is_absent(tmp_path):
    config = config_json("t5_v1_1")
    tensors = folder_tensors(config)
    shared = tensors.pop("shared.weight")
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    prints = {
        open_source(imported_run(tmp_path, config, tensors | dict.fromkeys(some, shared), "".join(some))).fingerprint()
        for some in (names[:1], names[1:], names)
    }
    assert len(prints) == 1
    different = tensors | {names[0]: shared, names[1]: shared + 1}
    with pytest.raises(UserError, match=r"shared.weight and encoder.embed_tokens.weight .* differ in value"):
        imported_run(tmp_path, config, different, "different")
    del tensors["lm_head.weight"]
    found = open_source(imported_run(tmp_path, config, tensors | {names[0]: shared}, "absent"))
    assert (found.read("output/kernel") == shared.T).all()


@pytest.mark.parametrize(
    ("config", "generation", "start"),
    other_rows_slow([
        ({}, {"decoder_start_token_id": 7}, 0),
        ({"decoder_start_token_id": None}, {"decoder_start_token_id": 7}, 7),
        ({"decoder_start_token_id": None, "pad_token_id": 3}, {}, 3),
    ], ({"decoder_start_token_id": None}, {"decoder_start_token_id": 7}, 7)),
)  # fmt: skip
def test_the_first_decoder_input_is_that_of_the_folder(tmp_path, config, generation, start):
    config = config_json("t5", **config)
    files = {"generation_config__json": json.dumps(generation)} if generation else {}
    folder = write_folder(tmp_path / "hf", config, folder_tensors(config), **files)
    assert HuggingFaceFolder(open_source(folder)).run_values()["seq2seq"]["start_id"] == start
    tuned = load_config(str(CONFIGS / "translate_tsv.py"), [f"--config.init_from={folder}"])
    assert with_initial_model(parse_config(tuned)).task_options["start_id"] == start
    tuned.seq2seq.start_id = 11
    assert with_initial_model(parse_config(tuned)).task_options["start_id"] == 11


def test_rotary_positions_of_all_versions_mean_the_same():
    scaling = {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    old, new = (
        read_model(config_json("qwen3", **keys), "config.json").model
        for keys in (
            {"rope_theta": 500.0, "rope_scaling": {"type": "llama3", **scaling}},
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **scaling}},
        )
    )
    assert old == new and old["rope_scaling"] == "llama3" and old["rotary_base"] == 500


@pytest.mark.parametrize(
    ("kinds", "pattern"), [("ssfssf", (1, 1, 0)), ("sss", ()), ("fsff", (0, 1, 0)), ("ssfss", (1, 1, 0))]
)
def test_windows_in_both_directions(kinds, pattern):
    names = [SLIDING if kind == "s" else FULL for kind in kinds]
    model = windows_to_model(names, 7)
    assert model == {"attention_window": 7, "attention_window_pattern": pattern}
    assert layer_types_of(model | {"num_layers": len(names)}) == names


def test_every_family_has_a_reference_forward_pass_and_a_case():
    assert FAMILIES.keys() == FORWARD.keys()
    kinds = {kind for kind, _, _ in CASES.values()}
    assert all(kinds & family.architectures.keys() for family in FAMILIES.values())
