"""A whole run: what it writes, what it says, and where it starts from."""

import json
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_runs import assert_refused, contents, load, metrics_lines, train

import jaxdp
from jaxdp import trainer
from jaxdp.checkpoint.manifest import read_manifest, write_manifest
from jaxdp.training.result import Result
from jaxdp.workdir import WorkDir


def test_what_a_run_leaves_in_its_work_directory(config_file, trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["data"]["path"] == str(config_file.parent / "text.txt")
    # The preset is written out; the bias of the logits depends on the head, the tokens of a chunk on the vocabulary.
    assert [key for key, value in config["model"].items() if value is None] == ["output_bias", "loss_chunk"]
    assert (config["model"]["vocab_size"], config["model"]["mlp_dim"], config["model"]["norm"]) == (
        257,
        64,
        "layernorm",
    )
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == ["3", "6"]
    assert {path.name for path in trained.iterdir()} == {
        ".intact_checkpoints.json", "checkpoints", "config.json", "logs", "metrics.jsonl",
        "provenance.json", "run.lock", "tokenizer.json",
    }  # fmt: skip
    assert "finished 6 steps" in (trained / "logs" / "process_0.log").read_text()


def test_metrics_have_the_names_of_the_contract(trained):
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "train/loss" in line]
    evaluation = [line for line in lines if "eval/loss" in line]
    assert [line["step"] for line in training] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in evaluation] == [3, 6]
    for line in training:
        assert line.keys() >= {
            "step", "time", "train/loss", "train/grad_norm", "train/learning_rate", "train/skipped",
            "perf/tokens_per_sec", "perf/data_wait", "data/batch_hash",
        }  # fmt: skip
    for line in evaluation:
        assert line.keys() == {"step", "time", "eval/loss", "eval/perplexity", "eval/bits_per_byte", "eval/accuracy"}
        assert line["eval/perplexity"] == pytest.approx(np.exp(line["eval/loss"]))
        assert line["eval/bits_per_byte"] == pytest.approx(line["eval/loss"] / np.log(2))  # a byte is a token
    # Evaluation stands before the save of the same step, which records it.
    manifest = json.loads((trained / "checkpoints" / "6" / "manifest.json").read_text())
    assert manifest["metrics"] == {name: value for name, value in evaluation[1].items() if name.startswith("eval/")}


def test_a_report_comes_first_and_nothing_on_stdout(config_file, tmp_path, capsys):
    assert train(config_file, tmp_path, "--config.total_steps=6") == 0
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split()[0] for line in lines[:7]] == [
        "devices",
        "data",
        "model",
        "batch",
        "schedule",
        "compute",
        "memory",
    ]
    assert lines[0].startswith("devices   8 x cpu (1 process), jax ")
    assert lines[2] == "model     nano: 7,488 parameters; 1 layer, 2 heads, 16 wide, context 16, float32"
    assert lines[3] == "batch     16 sequences = 8 devices x 2 microbatches x 1 sequence; 256 tokens a step"
    assert "FLOP a step; compiled in " in lines[5] and " a device of " in lines[6]
    assert lines[7].startswith("step 1/6  loss ")
    assert lines[-1] == f"finished 6 steps; everything is in {tmp_path}"
    assert sum(line.startswith("step 3  eval ") or line.startswith("step 6  eval ") for line in lines) == 2


def test_a_dry_run_shows_the_configuration_and_writes_nothing(config_file, trained, tmp_path, capsys):
    capsys.readouterr()
    assert train(config_file, tmp_path / "run", "--dry_run") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((trained / "config.json").read_text())
    for name in ("devices ", "data ", "model ", "batch ", "schedule ", "compute ", "memory "):
        assert f"\n{name}" in f"\n{err}"
    assert "the run would train 6 steps from step 1" in err and "finished" not in err
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_a_run_that_exists_says_where_it_would_continue(config_file, trained, capsys):
    before = contents(trained)
    assert train(config_file, trained, "--dry_run", "--config.total_steps=9") == 0
    assert f"would continue from checkpoint 6 of 9 steps in {trained}" in capsys.readouterr().err
    assert train(config_file, trained, "--dry_run", "--config.seed=3") == 2
    assert "seed: 0 in the run, 3 now" in capsys.readouterr().err
    assert (
        train(config_file, trained, "--dry_run", "--coordinator=localhost:1", "--num_processes=2", "--process_index=0")
        == 2
    )
    assert "--dry_run runs in one process" in capsys.readouterr().err
    assert contents(trained) == before


def test_the_library_trains_like_the_command_line(config_file, trained, tmp_path):
    result = jaxdp.train(load(config_file), str(tmp_path))
    assert result == Result(6, 0)
    assert [line["train/loss"] for line in metrics_lines(tmp_path)] == [
        line["train/loss"] for line in metrics_lines(trained)
    ]


def test_retention_keeps_best_and_latest(config_file, tmp_path):
    options = ["--config.eval.every_steps=1", "--config.checkpoint.every_steps=1", "--config.checkpoint.keep_latest=1"]
    options += ["--config.optim.max_skipped_in_a_row=1"]
    assert train(config_file, tmp_path, *options, "--config.checkpoint.keep_every_steps=4") == 0
    losses = {line["step"]: line["eval/loss"] for line in metrics_lines(tmp_path, "eval/loss")}
    best = min(losses, key=losses.get)
    # A rollback goes back to 4, and to 5 when that is far enough behind.
    assert {int(path.name) for path in (tmp_path / "checkpoints").iterdir()} == {4, 5, 6, best}


def test_an_unknown_metric_is_refused_before_anything_is_written(config_file, tmp_path, capsys):
    assert train(config_file, tmp_path, "--config.eval.metric=eval/bleu") == 2
    sentence = assert_refused(capsys)
    names = sentence.removesuffix(".").split("choose one of: ")[1].split(", ")
    assert set(names) == {"eval/loss", "eval/perplexity", "eval/bits_per_byte", "eval/accuracy"}
    assert contents(tmp_path) == {}


def test_init_from_takes_the_moving_average(config_file, trained, tmp_path, capsys, monkeypatch):
    started = []

    def loop(program, state, *arguments, first_step, **options):
        started.append((first_step, jax.device_get(state)))
        return trainer.train(program, state, *arguments, first_step=first_step, **options)

    monkeypatch.setattr("jaxdp.training.session.train", loop)
    assert train(config_file, tmp_path, f"--config.init_from={trained}") == 0
    assert f"starting from {trained}: took 11 parameters" in capsys.readouterr().err
    [(first_step, state)] = started
    assert (first_step, int(state.step)) == (0, 0)
    average, last = (jaxdp.load_checkpoint(str(trained), weights=weights).params for weights in ("ema", "raw"))
    jax.tree.map(np.testing.assert_array_equal, state.params, average)
    jax.tree.map(np.testing.assert_array_equal, state.ema, average)
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, last, average)))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))


def test_resuming_beats_init_from(config_file, trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "6")
    assert train(config_file, workdir, f"--config.init_from={tmp_path / 'nowhere'}") == 0
    err = capsys.readouterr().err
    assert "resuming from checkpoint 3" in err and "starting from" not in err


def test_init_from_another_model_is_refused_with_both_sides(config_file, trained, tmp_path, capsys):
    other = shutil.copytree(trained / "checkpoints" / "6", tmp_path / "other")
    manifest = read_manifest(other)
    [leaf] = [leaf for leaf in manifest.leaves if leaf["path"] == "ema/layer_0/mlp/up/kernel"]
    leaf["shape"] = [16, 32]
    write_manifest(other, manifest)
    assert train(config_file, tmp_path / "run", f"--config.init_from={other}") == 2
    sentence = assert_refused(capsys)
    assert sentence.startswith(
        f"init_from={other} holds another model: layer_0/mlp/up/kernel is (16, 32) there and (16, 64) here. Set model.*"
    )
    assert contents(tmp_path / "run") == {}


def test_a_kill_while_the_configuration_is_written_leaves_the_old_one(config_file, trained, tmp_path, monkeypatch):
    workdir = shutil.copytree(trained, tmp_path / "run")
    before = (workdir / "config.json").read_text()
    replace = os.replace

    def die(path, target):
        if Path(path).name.startswith("config.json"):
            raise KeyboardInterrupt
        return replace(path, target)

    shutil.rmtree(workdir / "checkpoints" / "6")
    monkeypatch.setattr(os, "replace", die)
    assert train(config_file, workdir, "--config.log.every_steps=2") == 130
    assert (workdir / "config.json").read_text() == before


def test_the_lock_is_free_after_a_run_and_after_a_refusal(config_file, trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    assert train(config_file, workdir) == 0
    assert train(config_file, workdir, "--config.seed=3") == 2
    with WorkDir(workdir).locked():
        pass


def test_a_missing_package_of_a_tracker_is_refused_before_devices_are_used(config_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("jaxdp.training.train.TrainingSetup", lambda *_: pytest.fail("the devices were used"))
    assert train(config_file, tmp_path / "run", "--config.log.wandb=True") == 2
    assert "pip install 'jaxdp[wandb]'" in assert_refused(capsys)
