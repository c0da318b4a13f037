"""Import and export of Hugging Face folders without torch: round trips, accounting of tensors and keys, refusals."""

import json

import ml_dtypes
import numpy as np
import pytest
from tiny_folders import BERT, GPT2, bert_shapes, gpt2_shapes, random_tensors, write_folder

from jaxdp.cli.main import main
from jaxdp.data.vocabularies import load_vocabularies
from jaxdp.errors import UserError
from jaxdp.interop.exporting import export_model
from jaxdp.interop.importing import import_model
from jaxdp.interop.open_source import open_source
from jaxdp.workdir import WorkDir


def imported(tmp_path, config, tensors, name="work"):
    return import_model(write_folder(tmp_path / f"hf_{name}", config, tensors), tmp_path / name)


def refused(tmp_path, config, tensors, match):
    with pytest.raises(UserError, match=match):
        imported(tmp_path, config, tensors, "refused")
    assert not [path.name for path in tmp_path.iterdir() if path.name not in ("hf_refused",)]


@pytest.fixture
def gpt2():
    return random_tensors(gpt2_shapes())


def test_a_round_trip_returns_every_byte(tmp_path, gpt2):
    gpt2 |= {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in gpt2.items() if "mlp" in name}
    files = {"generation_config__json": '{"eos_token_id": [1, 2]}', "chat_template__jinja": "{{ x }}"}
    folder = write_folder(tmp_path / "hf", GPT2, gpt2, **files)
    workdir = import_model(folder, tmp_path / "work")
    assert load_vocabularies(WorkDir(workdir)).other_eos_ids == (1, 2)
    out = export_model(workdir, tmp_path / "out")
    for name in ("config.json", "generation_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert not (out / "import.json").exists()
    found = open_source(out)
    expected = {name: tensor for name, tensor in gpt2.items() if not name.endswith(".attn.bias")}
    assert found.arrays.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found.read(name).dtype == tensor.dtype and found.read(name).tobytes() == tensor.tobytes()
    again = import_model(out, tmp_path / "again")
    assert open_source(again).fingerprint() == open_source(workdir).fingerprint()


def test_names_of_old_and_other_classes_mean_the_same(tmp_path):
    shapes = {"now": bert_shapes(), "gamma": bert_shapes(weight="gamma", bias="beta"), "bare": bert_shapes("")}
    prints = {
        name: open_source(imported(tmp_path, BERT, random_tensors(own), name)).fingerprint()
        for name, own in shapes.items()
    }
    assert len(set(prints.values())) == 1


def test_tied_tensors_by_either_name_or_both(tmp_path, gpt2):
    table = gpt2["transformer.wte.weight"]
    without = {name: tensor for name, tensor in gpt2.items() if name != "transformer.wte.weight"}
    prints = [
        open_source(imported(tmp_path, GPT2, tensors, str(number))).fingerprint()
        for number, tensors in enumerate((gpt2, gpt2 | {"lm_head.weight": table}, without | {"lm_head.weight": table}))
    ]
    assert len(set(prints)) == 1


def test_tensors_that_do_not_fit_are_refused(tmp_path, gpt2):
    other = gpt2 | {"lm_head.weight": gpt2["transformer.wte.weight"] + 1}
    refused(tmp_path, GPT2, other, r"wte\.weight and lm_head\.weight .* are tied by config\.json and differ in value")


def test_left_over_and_missing_tensors_are_named(tmp_path, gpt2):
    del gpt2["transformer.ln_f.bias"]
    gpt2["transformer.h.0.attn.rotary"] = np.zeros(3, np.float32)
    refused(tmp_path, GPT2, gpt2, r"only in the folder: h\.0\.attn\.rotary; only in the model: ln_f\.bias")


def test_an_untied_model_without_a_head_is_refused(tmp_path, gpt2):
    refused(tmp_path, GPT2 | {"tie_word_embeddings": False}, gpt2, r"only in the model: lm_head\.weight")


def test_another_shape_is_refused(tmp_path, gpt2):
    gpt2["transformer.h.1.mlp.c_fc.bias"] = np.zeros(5, np.float32)
    refused(
        tmp_path,
        GPT2,
        gpt2,
        r"h\.1\.mlp\.c_fc\.bias .* has the shape \[5\], and config\.json describes \[12\] \(layer_1/mlp/up/bias\)",
    )


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx=True is not supported .* expected False",
        ),
        ({"rope_theta": 10000.0}, "rope_theta=10000.0 is not supported .* expected no such key"),
        ({"activation_function": "swish7"}, "activation_function='swish7' of config.json is not supported"),
        ({"model_type": "mamba"}, "model_type='mamba' is unknown; known are bert, .*gpt2"),
        (
            {"architectures": ["GPT2ForQA"]},
            "the architecture GPT2ForQA is unknown; of model_type=gpt2 known are GPT2LMHeadModel",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config=.* is not supported"),
    ],
)
def test_options_that_the_model_lacks_are_refused_by_name(tmp_path, gpt2, changes, match):
    refused(tmp_path, GPT2 | changes, gpt2, match)


def test_a_wrong_mapping_is_found_by_the_proof(tmp_path, gpt2, monkeypatch):
    from jaxdp.interop.reference import gpt2 as reference

    monkeypatch.setattr(reference, "ACTIVATIONS", reference.ACTIVATIONS | {"gelu_new": reference.ACTIVATIONS["gelu"]})
    refused(tmp_path, GPT2, gpt2, "differ by at most .* so the model is not that of")


def test_the_commands(tmp_path, gpt2, capsys):
    folder = write_folder(tmp_path / "hf", GPT2, gpt2)
    assert main(["import", f"--from={folder}", f"--workdir={tmp_path / 'work'}"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "work")
    assert "differ by at most" in printed.err and "bos_token_id=50256 of config.json is outside" in printed.err
    assert main(["import", f"--from={folder}", f"--workdir={tmp_path / 'work'}"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export", f"--workdir={tmp_path / 'work'}", f"--to={tmp_path / 'out'}", "--dtype=bfloat16"]) == 0
    assert {spec.dtype for spec in open_source(tmp_path / "out").arrays.values()} == {"bfloat16"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert main(["inspect", str(tmp_path / "work"), "--verify"]) == 0


def test_shards_with_an_index(tmp_path, gpt2, monkeypatch):
    from jaxdp.interop import exporting

    monkeypatch.setattr(exporting, "SHARD_BYTES", 2000)
    out = export_model(imported(tmp_path, GPT2, gpt2), tmp_path / "out")
    assert len(list(out.glob("model-*-of-*.safetensors"))) > 2 and (out / "model.safetensors.index.json").is_file()
    assert (
        open_source(import_model(out, tmp_path / "again")).fingerprint() == open_source(tmp_path / "work").fingerprint()
    )


def test_a_run_of_jaxdp_is_exported(trained, tmp_path):
    out = export_model(trained, tmp_path / "out", step="3")
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "gpt2" and config["activation_function"] == "gelu" and config["eos_token_id"] == 256
    workdir, checkpoint = import_model(out, tmp_path / "again"), open_source(trained / "checkpoints" / "3")
    found = open_source(workdir)  # with the biases that GPT-2 has and the run has not
    assert all(not found.read(name).any() for name in found.arrays.keys() - checkpoint.arrays.keys())
    assert all((found.read(name) == checkpoint.read(name)).all() for name in checkpoint.arrays)
