"""Runs that start from another task's, learn parts of a model, or see their rows otherwise than they are."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import assert_refused, metrics_lines, model_of, train
from tiny_tasks_data import CONFIG, LABELS, write_records

import jaxdp
from jaxdp.cli.main import main
from jaxdp.config import load_config, parse_config
from jaxdp.data.tokenizers import load_tokenizer
from jaxdp.data.vocabularies import Vocabularies
from jaxdp.errors import UserError
from jaxdp.interop.vocabulary_rows import token_ids
from jaxdp.interop.warm_start import plan_warm_start
from jaxdp.model import parameter_shapes
from jaxdp.tasks import Labels
from jaxdp.training.setup import TrainingSetup
from jaxdp.trees import named_leaves

CONFIGS = Path(jaxdp.__file__).parents[1] / "configs"

PRETRAIN = ("--config.task=masked_lm", "--config.data.tokenizer=bpe:300", "--config.data.length=32")
NO_EVALUATION = "--config.eval.every_steps=0"
CLASSIFY = ("--config.task=classification", "--config.data.tokenizer=bpe:280")  # that of init_from is taken instead
ONE_UPDATE = (
    *CLASSIFY, "--config.optim.name=sgd", "--config.optim.clip_norm=0.0", "--config.total_steps=1", "--config.optim.weight_decay=0.0",
    "--config.optim.schedule=constant", "--config.optim.warmup_steps=0", "--config.eval.every_steps=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    root = tmp_path_factory.mktemp("transfer")
    write_records(root / "records.jsonl")
    (root / "config.py").write_text(CONFIG.format(path=str(root / "records.jsonl")))
    return root / "config.py"


@pytest.fixture(scope="module")
def pretrained(config_file):
    workdir = config_file.parent / "pretrained"
    assert train(config_file, workdir, *PRETRAIN, NO_EVALUATION) == 0
    return workdir


@pytest.fixture(scope="module")
def plain(config_file):
    """A classifier as the tests vary it."""
    workdir = config_file.parent / "plain"
    assert train(config_file, workdir, *CLASSIFY, "--config.log.batch_hash=True") == 0
    return workdir


@pytest.fixture(scope="module")
def initial(config_file):
    """Parameters before the first update."""
    workdir = config_file.parent / "still"
    assert train(config_file, workdir, *ONE_UPDATE, "--config.optim.scales=(('.*', 1e-30),)") == 0
    return parameters(workdir)


def parameters(workdir, step="latest"):
    return dict(named_leaves(jaxdp.load_checkpoint(str(workdir), step=step).params))


def test_a_classifier_starts_from_a_language_model(config_file, pretrained, tmp_path, capsys):
    frozen = "--config.optim.freeze=('layer_0/.*', '.*embedding')"
    assert train(config_file, tmp_path, *CLASSIFY, f"--config.init_from={pretrained}", frozen, NO_EVALUATION) == 0
    told = capsys.readouterr().err
    assert f"starting from {pretrained}: took " in told
    assert "new: classifier/output/bias, classifier/output/kernel; dropped: masked_lm/dense/bias, " in told
    before, after = parameters(pretrained), parameters(tmp_path)
    held = [name for name in after if name.startswith("layer_0/") or name == "token_embedding"]
    assert len(held) > 10
    for name in held:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    # Learned positions are as many as the new run is long: the first of those that were trained.
    np.testing.assert_array_equal(after["position_embedding"], before["position_embedding"][:24])
    assert not np.array_equal(after["final_norm/scale"], before["final_norm/scale"])
    assert (tmp_path / "tokenizer.json").read_bytes() == (pretrained / "tokenizer.json").read_bytes()


def test_own_tokenizer_and_the_mean_of_two_checkpoints(config_file, pretrained, tmp_path, capsys):
    """The run keeps its tokenizer and takes the rows of the tokens that the other has too, of the mean of steps 3 and 6."""
    options = ("--config.init_rules=('match_tokens:mean',)", "--config.init_average=last:2", "--config.total_steps=1")
    options += (NO_EVALUATION,)
    frozen = "--config.optim.freeze=('.*embedding',)"
    assert train(config_file, tmp_path, *CLASSIFY, f"--config.init_from={pretrained}", frozen, *options) == 0
    assert "by rule 1 (match_tokens:mean): " in capsys.readouterr().err
    ids, known = (token_ids(load_tokenizer(run / "tokenizer.json")) for run in (tmp_path, pretrained))
    steps = [parameters(pretrained, step)["token_embedding"].astype(np.float64) for step in (3, 6)]
    after, before = parameters(tmp_path)["token_embedding"], (steps[0] + steps[1]) / 2
    assert not np.allclose(steps[0], steps[1]) and len(after) == len(ids)
    moved = [text for text in ids.keys() & known.keys() if ids[text] != known[text]]
    assert len(moved) > 10
    for text in moved:
        np.testing.assert_allclose(after[ids[text]], before[known[text]], rtol=1e-6, err_msg=text)
    written = json.loads((tmp_path / "init.json").read_text())
    assert "mean of steps 3, 6" in written["source"]
    entry = written["parameters"]["token_embedding"]
    assert (entry["rows_taken"], entry["rows_new"]) == (len(ids.keys() & known.keys()), len(ids.keys() - known.keys()))
    assert written["parameters"]["layer_0/mlp/up/kernel"]["origin"] == "taken"
    assert written["dropped"]["masked_lm/dense/bias"] is None


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("classify_quickstart", ["--config.model.num_layers=4", "--config.data.length=128"]),
        ("classify_csv", ["--config.model.num_layers=4"]),
    ],
)
def test_recipes_that_are_said_to_go_on_from_bert_small_have_its_body(recipe, overrides):
    """Every option that the documentation and the recipes name next to init_from, and no other, is needed."""
    page = CONFIGS.parent / "docs" / "tasks" / "classification.md"
    text = (CONFIGS / "bert_small_stdlib.py").read_text() + page.read_text()
    assert all(override.removeprefix("--config.") in text for override in overrides)
    shapes = shapes_of("bert_small_stdlib")
    plan_warm_start("runs/bert_small", shapes, shapes_of(recipe, overrides))
    for left_out in overrides:
        with pytest.raises(UserError, match="holds another model"):
            plan_warm_start(
                "runs/bert_small", shapes, shapes_of(recipe, [each for each in overrides if each != left_out])
            )


def shapes_of(recipe, overrides=()):
    config = parse_config(load_config(str(CONFIGS / f"{recipe}.py"), overrides))
    model = model_of(
        config,
        300,
        "cpu",
        Vocabularies(labels=Labels(kind="single_label", num_records=2, names=("a", "b"), counts=(1, 1))),
    )
    return {name: leaf.shape for name, leaf in named_leaves(parameter_shapes(model.config))}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("--config.model.embed_dim=32", "(16, 48) there"),
        ("--config.model.num_layers=2", "absent there"),
        ("--config.data.length=40", "position_embedding is (32, 16) there and (40, 16) here"),
    ],
)
def test_another_body_is_refused(override, told, config_file, pretrained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        TrainingSetup, "compile", lambda self: pytest.fail("compiled a program for a model that is refused")
    )
    assert train(config_file, tmp_path, *CLASSIFY, f"--config.init_from={pretrained}", override) == 2
    sentence = assert_refused(capsys)
    assert f"init_from={pretrained} holds another model: " in sentence and "Set model.*" in sentence
    assert told.removeprefix("(16, 48) ") in sentence


def test_rates_fall_from_layer_to_layer(config_file, initial, tmp_path):
    """One update of sgd: what a parameter moves is its factor times what it moves without."""
    for name, scales in (
        ("plain", ()),
        ("decayed", ("--config.optim.layer_decay=0.5", "--config.optim.scales=(('final_norm/bias', 3.0),)")),
    ):
        assert train(config_file, tmp_path / name, *ONE_UPDATE, *scales) == 0
    plain, decayed = (parameters(tmp_path / name) for name in ("plain", "decayed"))
    factors = {
        "layer_0/mlp/up/kernel": 0.5,
        "token_embedding": 0.25,
        "final_norm/bias": 3.0,
        "classifier/output/kernel": 1.0,
    }
    for name, factor in factors.items():
        moved = np.asarray(plain[name] - initial[name], np.float64)
        assert np.abs(moved).max() > 1e-6
        np.testing.assert_allclose(decayed[name] - initial[name], factor * moved, rtol=1e-2, atol=1e-7, err_msg=name)


@pytest.mark.slow
def test_penalties_are_a_part_of_the_objective(config_file, plain, initial, tmp_path):
    options = {
        "l1": ("--config.optim.l1=0.01", "--config.eval.every_steps=0", "--config.total_steps=1"),
        "l2": ("--config.optim.l2=0.5",),
    }
    runs = {"plain": plain} | {name: tmp_path / name for name in options}
    for name, own in options.items():
        assert train(config_file, runs[name], *CLASSIFY, *own) == 0
    losses = {name: metrics_lines(run, "train/loss")[0]["train/loss"] for name, run in runs.items()}
    matrices = [np.asarray(leaf, np.float64) for leaf in initial.values() if leaf.ndim >= 2]
    assert losses["l1"] - losses["plain"] == pytest.approx(
        0.01 * sum(np.abs(leaf).sum() for leaf in matrices), rel=1e-3
    )
    assert losses["l2"] - losses["plain"] == pytest.approx(
        0.25 * sum(np.square(leaf).sum() for leaf in matrices), rel=1e-3
    )
    evaluated = {name: metrics_lines(runs[name], "eval/loss")[0]["eval/loss"] for name in ("plain", "l2")}
    assert evaluated["l2"] < 2 * evaluated["plain"]  # what is reported is the pure loss


def test_rows_are_changed_while_they_are_trained_on(config_file, plain, tmp_path):
    augmentation = "--config.data.augmentation=('token_dropout:0.5', 'random_swap:0.5')"
    assert train(config_file, tmp_path, *CLASSIFY, augmentation, "--config.log.batch_hash=True") == 0
    runs = (plain, tmp_path)
    assert len({metrics_lines(run, "train/loss")[0]["data/batch_hash"] for run in runs}) == 2
    assert all(np.isfinite(metrics_lines(run, "eval/loss")[0]["eval/loss"]) for run in runs)


def test_every_label_equally_often(config_file, tmp_path):
    lines = (config_file.parent / "records.jsonl").read_text().splitlines()
    rare = [line for number, line in enumerate(lines) if LABELS[0] not in line or number % 5 == 0]
    (tmp_path / "rare.jsonl").write_text("\n".join(rare) + "\n")
    options = (*CLASSIFY, f"--config.data.path={tmp_path / 'rare.jsonl'}", "--config.total_steps=24", NO_EVALUATION)
    assert (
        train(config_file, tmp_path / "run", *options, "--config.data.balanced=True", "--config.log.every_steps=12")
        == 0
    )
    shares = metrics_lines(tmp_path / "run", f"data/share/{LABELS[0]}")[-1]
    assert [shares[f"data/share/{label}"] for label in LABELS] == pytest.approx([1 / 3] * 3, abs=0.1)  # without: 0.09


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("--config.data.augmentation=('random_swap:0.1',)",), "data.augmentation="),
        ((*CLASSIFY, "--config.data.augmentation=('swap:0.1',)"), "token_dropout:RATE"),
        (("--config.data.balanced=True",), "data.balanced needs examples of one source with one label each"),
        ((*CLASSIFY, "--config.optim.freeze=('layer_7/.*',)"), "'layer_7/.*', which matches no parameter"),
        ((*CLASSIFY, "--config.optim.layer_decay=1.5"), "optim.layer_decay is 1.5"),
        ((*CLASSIFY, "--config.data.target_tokenizer=byte"), "data.target_tokenizer='byte', but task=classification"),
        (("--config.task=seq2seq", "--config.data.target_tokenizer=char"), "model.share_embeddings needs one vocabulary"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(overrides, told, config_file, tmp_path, capsys):
    assert train(config_file, tmp_path, *overrides) == 2
    assert told in assert_refused(capsys)


def test_source_and_target_with_a_tokenizer_each(config_file, tmp_path, capsys):
    options = ("--config.task=seq2seq", "--config.data.tokenizer=bpe:280", "--config.data.target_tokenizer=char")
    options += ("--config.total_steps=2", NO_EVALUATION)
    assert train(config_file, tmp_path, *options, "--config.model.share_embeddings=False") == 0
    kinds = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("tokenizer", "target_tokenizer")]
    assert kinds[0] != kinds[1]
    trained = parameters(tmp_path)
    assert trained["token_embedding"].shape[0] > 256 > trained["target_token_embedding"].shape[0]
    capsys.readouterr()
    assert main(["predict", f"--workdir={tmp_path}", "--text=ant bee", "--cpu_devices=8"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"text", "score", "log_probability", "finished"}
    assert main(["eval", f"--workdir={tmp_path}", "--json", "--cpu_devices=8"]) == 0


@pytest.mark.slow  # test_sharded_processes.py starts from a sharded one
def test_sharded_parameters_start_from_the_same_checkpoint(config_file, pretrained, tmp_path, small_shards):
    """The losses of a classifier that starts from it are those of replicated parameters."""
    losses = []
    for sync in ("pmean", "zero3"):
        options = (*CLASSIFY, f"--config.init_from={pretrained}", f"--config.parallel.sync={sync}", NO_EVALUATION)
        assert train(config_file, tmp_path / sync, *options) == 0
        losses.append([line["train/loss"] for line in metrics_lines(tmp_path / sync)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and len(losses[0]) == 6
