"""`jaxdp eval`: the numbers of the run, from the work directory alone."""

import json
import shutil

import jax
import numpy as np
import pytest
from tiny_runs import assert_refused, metrics_lines, model_of, read_data, write_text

import jaxdp
from jaxdp.cli.main import main

DEVICES = "--cpu_devices=8"


def evaluate(capsys, *options):
    capsys.readouterr()
    assert main(["eval", *options, DEVICES, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n") == 1
    return json.loads(out)


def only_eval(line):
    counts = ("eval/num_examples", "eval/num_scored")
    return {name: value for name, value in line.items() if name.startswith("eval/") and name not in counts}


def reference(checkpoint, source, num_rows):
    """Mean loss and accuracy over the first rows, in float64, by the model without any of the machinery."""
    rows = source.rows(np.arange(min(num_rows, source.num_rows)))
    inputs, targets = rows["tokens"][:, :-1], rows["tokens"][:, 1:]
    valid = np.arange(1, inputs.shape[1] + 1) < rows["num_tokens"][:, None]
    model = model_of(checkpoint.config, 257, "cpu")
    logits = np.asarray(jax.jit(model.apply)({"params": checkpoint.params}, inputs), np.float64)
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -np.take_along_axis(log_probabilities, targets[..., None], -1)[..., 0]
    return nats[valid].mean(), (logits.argmax(-1) == targets)[valid].mean()


@pytest.mark.parametrize("step", ["latest", "best", "3", "6"])
def test_it_is_exactly_the_line_of_the_run(trained, capsys, step):
    result = evaluate(capsys, f"--workdir={trained}", f"--step={step}", "--num_batches=2")  # as eval.num_batches
    number = 3 if step == "3" else 6
    [line] = [line for line in metrics_lines(trained, "eval/loss") if line["step"] == number]
    assert (result["step"], result["split"]) == (number, "eval")
    assert only_eval(result) == only_eval(line) and result["eval/num_examples"] == 2 * 16


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("weights", ["ema", "raw"])
@pytest.mark.parametrize("num_batches", [None, 1])
def test_it_is_the_mean_over_the_rows(trained, capsys, split, weights, num_batches):
    """Of the whole split, whatever `eval.num_batches` the run was trained with; of fewer only where that is asked for."""
    fewer = [f"--num_batches={num_batches}"] if num_batches else []
    result = evaluate(capsys, f"--workdir={trained}", f"--split={split}", f"--weights={weights}", *fewer)
    checkpoint = jaxdp.load_checkpoint(str(trained), weights=weights)
    data = read_data(checkpoint.config)
    source = data.train if split == "train" else data.evaluation
    assert checkpoint.config.eval.num_batches == 2 and source.num_rows > 2 * 16
    num_rows = num_batches * 16 if num_batches else source.num_rows
    loss, accuracy = reference(checkpoint, source, num_rows)
    assert result["eval/num_examples"] == num_rows
    assert result["eval/loss"] == pytest.approx(loss, rel=1e-6)
    assert result["eval/accuracy"] == pytest.approx(accuracy, abs=1e-9)
    assert result["split"] == split


def test_the_moving_average_is_not_the_last_parameters(trained, capsys):
    ema, raw = (evaluate(capsys, f"--workdir={trained}", f"--weights={weights}") for weights in ("ema", "raw"))
    assert ema["eval/loss"] != raw["eval/loss"]


def test_text_names_every_value(trained, capsys):
    """A loss of the split to train on is not called that of the validation split."""
    for split in ("eval", "train"):
        assert main(["eval", f"--workdir={trained}", f"--split={split}", DEVICES]) == 0
        out = capsys.readouterr().out
        lines = dict(line.split() for line in out.splitlines())
        assert lines.keys() == {"step", "split", "num_examples", "loss", "accuracy", "bits_per_byte", "perplexity"}
        assert (lines["step"], lines["split"]) == ("6", split)


def test_changed_data_is_refused(trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["path"] = str(tmp_path / "text.txt")
    (workdir / "config.json").write_text(json.dumps(config))
    write_text(tmp_path / "text.txt", seed=1)
    assert main(["eval", f"--workdir={workdir}", DEVICES]) == 2
    sentence = assert_refused(capsys)
    assert "is not the data that" in sentence and " now, " in sentence and " then; restore it" in sentence


def test_a_damaged_checkpoint_is_refused(trained, tmp_path, capsys):
    workdir = shutil.copytree(trained, tmp_path / "run")
    path = workdir / "checkpoints" / "6" / "state" / "_METADATA"
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["eval", f"--workdir={workdir}", DEVICES]) == 4
    assert str(path) in assert_refused(capsys, 4)


def test_loss_that_is_no_number_is_null(trained, capsys, monkeypatch):
    monkeypatch.setattr("jaxdp.inference.evaluator.evaluate", lambda *_: {"eval/loss": float("nan"), "eval/x": 1.0})
    result = evaluate(capsys, f"--workdir={trained}")
    assert (result["eval/loss"], result["eval/x"]) == (None, 1.0)
