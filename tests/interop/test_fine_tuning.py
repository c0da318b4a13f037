"""Training from a Hugging Face folder, and its export: model, tokenizer and labels."""

import json
import random

import numpy as np
import pytest
import safetensors.numpy
from tiers import others_slow
from tiny_folders import BERT, GPT2, bert_shapes, gpt2_shapes, random_tensors, write_folder
from tiny_runs import assert_refused

import jaxdp
from jaxdp.cli.main import main
from jaxdp.config import parse_config
from jaxdp.data.tokenizers.training import train_wordpiece
from jaxdp.inference.initial_params import with_initial_model
from jaxdp.interop.exporting import export_model
from jaxdp.interop.hf_folder import HuggingFaceFolder
from jaxdp.interop.importing import import_model
from jaxdp.interop.model_source import open_model
from jaxdp.interop.open_source import open_source

WORDS = {"sports": ("ball", "goal", "team"), "money": ("bank", "loan", "fund")}
RECIPE = """
from jaxdp import defaults


def get_config():
    config = defaults.get_config()
    config.task = "classification"
    config.classification.pooling = "first"
    config.total_steps = 2
    config.global_batch_size = 8
    config.data.source = "csv"
    config.data.path = {path!r}
    config.data.length = 12
    config.data.long_documents = "cut"
    config.data.eval_selection = "stratified"
    config.data.tokenizer = "byte"
    config.model.preset = "encoder_nano"
    config.model.num_layers = 3
    config.optim.warmup_steps = 1
    config.optim.schedule = "constant"
    config.parallel.cpu_devices = 8
    return config
"""


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    rows = random.Random(0)
    lines = [f"{label},{' '.join(rows.choices(words, k=4))}" for label, words in WORDS.items() for _ in range(20)]
    path.write_text("label,text\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texts):
    tokenizer = train_wordpiece(44, texts.read_text().splitlines(), ("[CLS]", "[SEP]", "[MASK]"))
    return write_folder(
        tmp_path_factory.mktemp("bert") / "hf",
        BERT | {"hidden_dropout_prob": 0.0},
        random_tensors(bert_shapes()),
        tokenizer__json=tokenizer.to_json(),
        tokenizer_config__json='{"model_max_length": 16}',
    )


def tune(recipe, folder, workdir, *options):
    return main(["train", f"--config={recipe}", f"--config.init_from=hf:{folder}", f"--workdir={workdir}", *options])


def test_a_classifier_of_a_masked_language_model_goes_in_and_out(texts, folder, tmp_path, capsys):
    recipe, workdir = tmp_path / "recipe.py", tmp_path / "run"
    recipe.write_text(RECIPE.format(path=str(texts)))
    assert tune(recipe, folder, workdir) == 0
    told = capsys.readouterr().err
    [line] = [line for line in told.splitlines() if line.startswith("starting from")]
    assert f"starting from {folder}: took 39 parameters" in line and "new: classifier/output/bias" in line
    assert tune(recipe, folder, workdir, "--config.total_steps=3") == 0  # resumes without the folder's model
    assert "resuming from checkpoint 2" in capsys.readouterr().err
    config = json.loads((workdir / "config.json").read_text())
    model = config["model"]
    assert (model["num_layers"], model["embed_dim"], model["dropout_rate"], model["vocab_size"]) == (2, 8, 0.0, 48)
    out = export_model(workdir, tmp_path / "out")
    theirs = json.loads((out / "config.json").read_text())
    assert theirs["architectures"] == ["BertForSequenceClassification"] and theirs["max_position_embeddings"] == 12
    assert theirs["id2label"] == {"0": "money", "1": "sports"}
    assert (out / "tokenizer_config.json").read_bytes() == (folder / "tokenizer_config.json").read_bytes()
    again = import_model(out, tmp_path / "again")
    assert open_source(again).fingerprint() == open_source(workdir).fingerprint()
    answers = [jaxdp.load(path, cpu_devices=8).predict(["ball goal", "loan"]) for path in (workdir, again)]
    assert answers[0] == answers[1]
    scores = [
        jaxdp.evaluate(path, data={"eval_path": str(texts)}, cpu_devices=8)["eval/loss"] for path in (workdir, again)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_a_run_may_take_the_pooler_that_a_masked_language_model_does_not_use(folder):
    parameters = open_model(folder).parameters
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(parameters.read("classifier/pooler/kernel"), tensors["bert.pooler.dense.weight"].T)
    np.testing.assert_array_equal(parameters.read("classifier/pooler/bias"), tensors["bert.pooler.dense.bias"])
    assert not any("pooler" in name for name in HuggingFaceFolder(open_source(folder)).parameters.arrays)


@pytest.mark.parametrize(
    ("architecture", "given", "expected"),
    [
        ("BertForSequenceClassification", None, "first"), ("BertForSequenceClassification", "last", "last"),
        ("BertForMaskedLM", None, "mean"), ("", None, "mean"),
    ],
)  # fmt: skip
def test_a_classifier_pools_as_the_one_it_starts_from(folder, tmp_path, architecture, given, expected):
    """Unset pooling is that of the source; a run that continues keeps its own, whatever the source is."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    if architecture == "BertForSequenceClassification":
        tensors = {name: value for name, value in tensors.items() if not name.startswith("cls.")}
        tensors |= {"classifier.weight": np.zeros((2, 8), np.float32), "classifier.bias": np.zeros(2, np.float32)}
    source = architecture and str(write_folder(tmp_path / "hf", BERT | {"architectures": [architecture]}, tensors))
    config = parse_config(
        {"task": "classification", "total_steps": 1, "init_from": source or None, "classification": {"pooling": given}}
    )
    assert with_initial_model(config).task_options["pooling"] == expected
    saved = {"model": {}, "classification": {"pooling": "last"}}
    assert with_initial_model(config, saved).task_options["pooling"] == "last"


def test_a_model_key_of_the_command_line_beats_the_source_and_must_fit_it(texts, folder, tmp_path, capsys):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(path=str(texts)))
    assert tune(recipe, folder, tmp_path / "run", "--config.model.mlp_dim=20") == 2
    assert "layer_0/mlp/down/bias" not in (sentence := assert_refused(capsys))
    assert "layer_0/mlp/down/kernel is (12, 8) there and (20, 8) here" in sentence


@pytest.mark.parametrize("scan", others_slow([False, True], True))
def test_layers_are_scanned_as_the_new_run_needs_them(texts, folder, tmp_path, scan):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(path=str(texts)))
    options = ("--config.total_steps=1", "--config.optim.learning_rate=1e-30", f"--config.model.scan_layers={scan}")
    options += ("--config.eval.every_steps=0",)
    assert tune(recipe, folder, tmp_path / "run", *options) == 0
    found = open_source(tmp_path / "run")
    path = "layers/attention/query/kernel" if scan else "layer_1/attention/query/kernel"
    expected = random_tensors(bert_shapes())["bert.encoder.layer.1.attention.self.query.weight"].T
    np.testing.assert_array_equal(found.read(path)[1] if scan else found.read(path), expected)


def test_imported_models_evaluate_generate_and_predict(texts, folder, tmp_path, capsys):
    masked = import_model(folder, tmp_path / "bert")
    assert main(["eval", f"--workdir={masked}", f"--config.data.eval_path={texts}", "--json", "--cpu_devices=8"]) == 0
    assert json.loads(capsys.readouterr().out)["eval/loss"] > 0
    [answer] = jaxdp.load(masked, cpu_devices=8).predict(["the [MASK] team"])
    assert len(answer["candidates"][0]) == 10
    tensors = random_tensors(gpt2_shapes())
    tensors["transformer.wte.weight"][44:] = 50 * tensors["transformer.ln_f.bias"]  # rows of no token, the likeliest
    decoder = write_folder(tmp_path / "hf", GPT2, tensors, tokenizer__json=(folder / "tokenizer.json").read_text())
    causal = import_model(decoder, tmp_path / "gpt2")
    loaded = jaxdp.load(causal, cpu_devices=8)
    logits = np.asarray(loaded.apply(loaded.tokenizer.encode("ball")[None]))
    assert logits[0, -1].argmax() >= 44
    [sample] = loaded.generate("ball", max_new_tokens=3, strategy=jaxdp.Sampling(temperature=0))
    assert sample.tokens and max(sample.tokens) < 44
    assert main(["eval", f"--workdir={causal}", f"--config.data.eval_path={texts}", "--json", "--cpu_devices=8"]) == 0
