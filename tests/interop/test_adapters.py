"""Adapters outside of jaxdp: merged they compute the same, and PEFT's names, shapes and settings."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_folders import HEADS, HIDDEN, LAYERS, LENGTH, VOCAB, WIDTH

from jaxdp.errors import UserError
from jaxdp.interop.adapters import MergedAdapters, write_adapter
from jaxdp.interop.families.registry import FAMILIES
from jaxdp.interop.source import ArraySpec, ParameterSource
from jaxdp.model import TransformerConfig, model_config, parameter_shapes
from jaxdp.safetensors_file import read_array, read_header
from jaxdp.trees import named_leaves

LORA = {"lora_rank": 2, "lora_alpha": 3.0, "lora_layers": ("attention/query", "mlp/down")}


class InMemory(ParameterSource):
    """Random parameters of a model."""

    path = Path("memory")

    def __init__(self, config: TransformerConfig):
        rng = np.random.default_rng(0)
        shapes = dict(named_leaves(parameter_shapes(config)))
        self.values = {name: rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in shapes.items()}

    @property
    def arrays(self):
        return {name: ArraySpec("float32", values.shape) for name, values in self.values.items()}

    def read(self, name):
        return self.values[name]

    def identity(self):
        return ""

    def describe(self):
        return "memory"


def bert(**overrides):
    sizes = {"num_layers": LAYERS, "num_heads": HEADS, "embed_dim": WIDTH, "mlp_dim": HIDDEN}
    return model_config(
        "bert_tiny", sizes | LORA | overrides, vocab_size=VOCAB, max_length=LENGTH, head="classification", num_labels=3
    )


def test_kernels_have_their_adapters_added():
    source = InMemory(bert())
    merged = MergedAdapters(source, 1.5)
    assert not any("lora" in name for name in merged.arrays)
    layer = "layer_1/mlp/down"
    expected = source.values[f"{layer}/kernel"] + 1.5 * source.values[f"{layer}/lora_a"].astype(float) @ source.values[
        f"{layer}/lora_b"
    ].astype(float)
    np.testing.assert_allclose(merged.read(f"{layer}/kernel"), expected, rtol=1e-6)
    np.testing.assert_array_equal(merged.read("layer_1/mlp/up/kernel"), source.values["layer_1/mlp/up/kernel"])


def test_the_folder_of_peft(tmp_path):
    source, family = InMemory(bert()), FAMILIES["bert"]
    classifier = family.architectures["BertForSequenceClassification"]
    write_adapter(tmp_path, source, family, classifier, bert(), "base/model")
    header = read_header(tmp_path / "adapter_model.safetensors")
    prefix = "base_model.model."
    query = "bert.encoder.layer.1.attention.self.query"
    assert header[f"{prefix}{query}.lora_A.weight"].shape == (2, WIDTH)
    assert header[f"{prefix}{query}.lora_B.weight"].shape == (WIDTH, 2)
    assert header[f"{prefix}bert.encoder.layer.0.output.dense.lora_A.weight"].shape == (2, HIDDEN)
    heads = {name.removeprefix(prefix) for name in header if "lora" not in name}
    assert heads == {
        f"{module}.{kind}" for module in ("classifier", "bert.pooler.dense") for kind in ("weight", "bias")
    }
    assert len(header) == 2 * 2 * LAYERS + 4
    stored = read_array(tmp_path / "adapter_model.safetensors", header[f"{prefix}{query}.lora_A.weight"])
    np.testing.assert_array_equal(stored, source.values["layer_1/attention/query/lora_a"].T)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["task_type"]) == (2, 3.0, "SEQ_CLS")
    assert query in settings["target_modules"]
    assert settings["modules_to_save"] == ["bert.pooler.dense", "classifier"]
    assert settings["base_model_name_or_path"] == "base/model"


def test_an_adapter_of_a_part_of_a_tensor_cannot_be_written_alone(tmp_path):
    sizes = {"num_layers": LAYERS, "num_heads": HEADS, "embed_dim": WIDTH, "mlp_dim": HIDDEN}
    config = model_config("gpt2", sizes | LORA, vocab_size=VOCAB, max_length=LENGTH)
    family = FAMILIES["gpt2"]
    with pytest.raises(UserError, match=r"c_attn\.weight of gpt2 holds .*export without --adapter"):
        write_adapter(tmp_path, InMemory(config), family, family.architectures["GPT2LMHeadModel"], config, None)
