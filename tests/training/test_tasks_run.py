"""Every task from the command line: trained, evaluated from its work directory alone, and asked."""

import io
import json
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from tiers import others_slow
from tiny_runs import (
    assert_refused,
    assert_same_bits,
    environment,
    metrics_lines,
    saved_arrays,
    start,
    train,
)
from tiny_tasks_data import CONFIG, LABELS, WORDS, write_records

from jaxdp.checkpoint.manifest import read_manifest
from jaxdp.checkpoint.restoring import restore_part
from jaxdp.cli.main import main
from jaxdp.inference import predict, restored_model
from jaxdp.inference.scoring import TextWriter

TASKS = {
    "masked_lm": (
        "--config.task=masked_lm",
        "--config.eval.metric=eval/accuracy",
        "--config.data.cleaning=('lowercase','whitespace','unicode:NFKC')",
    ),
    "classification": ("--config.task=classification", "--config.eval.metric=eval/macro_f1"),
    "multi_label": (
        "--config.task=classification",
        "--config.classification.kind=multi_label",
        "--config.data.label_column=labels",
        "--config.eval.metric=eval/micro_f1",
    ),
    "regression": (
        "--config.task=classification",
        "--config.classification.kind=regression",
        "--config.data.label_column=number",
        "--config.eval.metric=eval/mean_absolute_error",
    ),
    "seq2seq": ("--config.task=seq2seq", "--config.eval.metric=eval/chrf"),
    "packed_pairs": ("--config.task=seq2seq", "--config.data.packing=documents"),
    "completion": ("--config.causal_lm.completion_only=True",),
    "packed_completion": ("--config.causal_lm.completion_only=True", "--config.data.packing=documents"),
}
MEASURED = {
    "masked_lm": {"loss", "accuracy", "perplexity"},
    "classification": {"loss", "accuracy", "macro_f1", "roc_auc"},
    "multi_label": {"loss", "accuracy", "micro_f1", "average_precision"},
    "regression": {"loss", "mean_absolute_error", "root_mean_squared_error", "r2", "correlation"},
    "seq2seq": {"loss", "accuracy", "bleu", "chrf", "exact_match"},
    "packed_pairs": {"loss", "bleu"},
    "completion": {"loss", "accuracy", "bits_per_byte"},
    "packed_completion": {"loss", "accuracy"},
}
RESUMED = ("masked_lm",)
"""Those that are resumed in the default tier too; the others share their code, and seq2seq is stopped in an evaluation."""

ASKED = {"masked_lm": "Ant [MASK]", "classification": "ant bee", "seq2seq": "ant bee"}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """run_of(name): the configuration and the work directory of a finished run, made once."""
    root = tmp_path_factory.mktemp("tasks")
    write_records(root / "records.jsonl")
    (root / "config.py").write_text(CONFIG.format(path=str(root / "records.jsonl")))

    def run(name):
        workdir = root / name
        if not workdir.exists():
            assert train(root / "config.py", workdir, *TASKS[name]) == 0
        return root / "config.py", workdir

    return run


def printed(capsys, *arguments):
    capsys.readouterr()
    assert main([*arguments, "--cpu_devices=8"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow  # a language model: tests/inference/test_sharded_inference.py
@pytest.mark.parametrize("name", ["masked_lm", "classification", "seq2seq"])
def test_records_are_answered_alike_with_sharded_parameters(name, run_of, capsys, small_shards):
    _, workdir = run_of(name)
    [expected], [found] = (
        printed(capsys, "predict", f"--workdir={workdir}", f"--text={ASKED[name]}", f"--sync={sync}")
        for sync in ("pmean", "zero3")
    )
    assert found.keys() == expected.keys()
    for key in ("label", "text", "finished"):
        assert found.get(key) == expected.get(key)
    if name == "seq2seq":
        assert found["score"] == pytest.approx(expected["score"], rel=1e-4)
    elif name == "classification":
        assert found["probabilities"] == pytest.approx(expected["probabilities"], rel=1e-4)
    else:
        assert [each["token"] for each in found["candidates"][0]] == [
            each["token"] for each in expected["candidates"][0]
        ]


@pytest.mark.slow  # texts of a language model: tests/inference/test_sharded_inference.py
def test_texts_of_a_sharded_run_are_scored_like_those_of_a_whole_one(run_of, tmp_path, small_shards):
    config_file, workdir = run_of("seq2seq")
    assert train(config_file, tmp_path, *TASKS["seq2seq"], "--config.parallel.sync=zero3") == 0
    for line, expected in zip(metrics_lines(tmp_path, "eval/bleu"), metrics_lines(workdir, "eval/bleu"), strict=True):
        names = [name for name in expected if name.startswith("eval/")]
        assert [line[name] for name in names] == pytest.approx([expected[name] for name in names], rel=1e-4)


@pytest.mark.parametrize("name", others_slow(TASKS, *RESUMED, "classification", "seq2seq"))
def test_a_checkpoint_evaluates_as_it_did_in_training(name, run_of, capsys):
    _, workdir = run_of(name)
    *_, last = metrics_lines(workdir, "eval/loss")
    assert last["step"] == 6 and {f"eval/{metric}" for metric in MEASURED[name]} <= last.keys()
    [measured] = printed(capsys, "eval", f"--workdir={workdir}", "--json")
    for metric, value in measured.items():
        if metric.startswith("eval/num_"):
            assert value == {"eval/num_examples": value, "eval/num_scored": 6}[metric]
        elif metric.startswith("eval/"):
            assert value == pytest.approx(last[metric], rel=1e-5, abs=1e-7), metric


@pytest.mark.slow  # test_task_conformance.py: on any devices, in any batches
def test_the_number_of_devices_changes_no_summary(run_of, capsys, compilation_cache):
    """Of all rows together: exact however they are dealt."""
    _, workdir = run_of("classification")
    [eight] = printed(capsys, "eval", f"--workdir={workdir}", "--json")
    alone = start("eval", f"--workdir={workdir}", "--json", "--cpu_devices=1", env=environment(compilation_cache))
    one = json.loads(alone.communicate()[0])
    assert one.pop("split") == eight.pop("split") == "eval"
    assert one == pytest.approx(eight, rel=1e-5)


@pytest.mark.parametrize(
    "name", others_slow(["classification", "multi_label", "regression"], "classification", "multi_label")
)
def test_an_evaluation_is_reported_and_drawn(name, run_of, capsys):
    _, workdir = run_of(name)
    [measured] = printed(capsys, "eval", f"--workdir={workdir}", "--json")
    report = json.loads((workdir / "evaluation.json").read_text())
    assert (report["step"], report["split"], report["num_examples"]) == (6, "eval", 9)
    if name == "regression":
        assert report["kind"] == name and len(report["pairs"]) == 9
        assert report["mean_absolute_error"] == pytest.approx(measured["eval/mean_absolute_error"], rel=1e-5)
    else:
        assert report["kind"] == {"classification": "single_label"}.get(name, name)
        assert report["labels"] == list(LABELS if name == "classification" else WORDS)
        assert report["accuracy"] == pytest.approx(measured["eval/accuracy"])
    if name == "classification":
        assert report["num_examples"] == sum(map(sum, report["confusion_matrix"]))
    capsys.readouterr()
    assert main(["plot", str(workdir)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        str(workdir / "plots" / f"{plot}.png") for plot in ("training", "evaluation")
    ]


def test_texts_that_are_written_are_shown_and_reported(run_of, capsys):
    """At each evaluation those of the same two pairs: the first and the last that are scored."""
    _, workdir = run_of("seq2seq")
    log = (workdir / "logs" / "process_0.log").read_text()
    shown = [re.findall(rf"{name:<9}  (.*)", log) for name in ("source", "reference", "output")]
    assert list(map(len, shown)) == [4, 4, 4]  # at steps 3 and 6
    assert all(texts[:2] == texts[2:] for texts in shown[:2])
    assert all(source.split() == reference.split()[::-1] for source, reference in zip(*shown[:2], strict=True))
    printed(capsys, "eval", f"--workdir={workdir}", "--json")
    samples = json.loads((workdir / "evaluation.json").read_text())["samples"]
    assert [sample["source"] for sample in samples] == shown[0][:2] and len(set(shown[0])) == 2
    [said] = printed(capsys, "predict", f"--workdir={workdir}", f"--text={samples[0]['source']}")
    assert samples[0]["output"] == said["text"]
    assert main(["plot", str(workdir)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{workdir / 'plots' / 'training.png'}\n" and err == ""


def test_stopped_while_texts_are_scored_the_run_is_the_unbroken_one(run_of, tmp_path, monkeypatch):
    """SIGTERM comes when the loss is measured and texts are next: the state is saved, the next start evaluates it first."""
    config_file, whole = run_of("seq2seq")
    make = TextWriter._batch

    def make_and_kill(write, sources, *given):
        if len(sources):  # not when it compiles
            os.kill(os.getpid(), signal.SIGTERM)
        return make(write, sources, *given)

    with monkeypatch.context() as patch:
        patch.setattr(TextWriter, "_batch", make_and_kill)
        assert train(config_file, tmp_path, *TASKS["seq2seq"]) == 75
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["3"]
    assert metrics_lines(tmp_path, "eval/loss") == [] and read_manifest(tmp_path / "checkpoints" / "3").metrics == {}
    assert train(config_file, tmp_path, *TASKS["seq2seq"]) == 0
    assert_same_bits(saved_arrays(tmp_path, 6), saved_arrays(whole, 6))
    lines, expected = metrics_lines(tmp_path, "eval/loss"), metrics_lines(whole, "eval/loss")
    assert [line | {"time": 0} for line in lines] == [line | {"time": 0} for line in expected]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in RESUMED else pytest.mark.slow) for name in TASKS],
)
def test_a_resumed_run_is_the_same_bit_for_bit(name, run_of, tmp_path):
    """What a task draws at a step (masks, dropout) is drawn again."""
    config_file, whole = run_of(name)
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    assert train(config_file, tmp_path / "run", *TASKS[name]) == 0
    assert_same_bits(saved_arrays(tmp_path / "run", 6), saved_arrays(whole, 6))


@pytest.mark.parametrize(
    "name", others_slow(["classification", "multi_label", "regression"], "classification", "multi_label")
)
def test_a_model_without_finite_outputs_is_evaluated_and_answers(name, run_of, capsys, monkeypatch):
    _, workdir = run_of(name)

    def spoiled(*given):
        return jax.tree.map(lambda leaf: leaf * np.nan, restore_part(*given))

    monkeypatch.setattr(restored_model, "restore_part", spoiled)
    [measured] = printed(capsys, "eval", f"--workdir={workdir}", "--json")
    assert {measured[f"eval/{metric}"] for metric in MEASURED[name]} == {None}
    report = json.loads((workdir / "evaluation.json").read_text())
    assert (report["num_examples"], report["num_not_finite"]) == (0, 9)
    [said] = printed(capsys, "predict", f"--workdir={workdir}", "--text=ant bee")
    assert said["label"] is None and set(said.get("probabilities", {}).values()) <= {None}


@pytest.mark.parametrize("name", ["masked_lm", "seq2seq"])
def test_numbers_of_an_answer_that_are_not_finite_are_null(name, run_of, capsys, monkeypatch):
    _, workdir = run_of(name)
    monkeypatch.setattr(
        restored_model, "restore_part", lambda *given: jax.tree.map(lambda leaf: leaf * np.nan, restore_part(*given))
    )
    [said] = printed(capsys, "predict", f"--workdir={workdir}", f"--text={ASKED[name]}")
    numbers = [each["probability"] for each in said["candidates"][0]] if name == "masked_lm" else [said["score"]]
    assert set(numbers) == {None}


@pytest.mark.slow  # of such a model the evaluation is above, the end of the run in test_rollback.py
def test_a_classifier_that_diverges_is_given_up_not_broken_off(run_of, tmp_path, capsys):
    """Every evaluation is of a model whose outputs are not finite."""
    config_file, _ = run_of("classification")
    options = (
        *TASKS["classification"], "--config.optim.learning_rate=1e30", "--config.optim.max_skipped_in_a_row=2",
        "--config.eval.every_steps=1", "--config.total_steps=40",
    )  # fmt: skip
    capsys.readouterr()
    assert train(config_file, tmp_path / "run", *options) == 3
    assert "training diverged" in assert_refused(capsys)
    *_, last = metrics_lines(tmp_path / "run", "eval/loss")
    assert last["eval/loss"] is last["eval/accuracy"] is last["eval/macro_f1"] is None


def test_answers_of_several_labels_and_of_numbers(run_of, capsys):
    _, workdir = run_of("multi_label")
    [several] = printed(capsys, "predict", f"--workdir={workdir}", "--text=ant bee")
    assert list(several["probabilities"]) == list(WORDS)
    assert several["label"] == [name for name, value in several["probabilities"].items() if value > 0.5]
    _, workdir = run_of("regression")
    [number] = printed(capsys, "predict", f"--workdir={workdir}", "--text=ant bee")
    assert number.keys() == {"label"} and isinstance(number["label"], float)


def test_unix_times_are_reported_and_predicted_in_seconds(run_of, tmp_path, capsys):
    config_file, _ = run_of("regression")
    # Minutes of one hour in 2023: float32 has one value each 128 seconds.
    records = [{"text": WORDS[number % 6], "number": 1_700_000_000 + 60 * (number % 60)} for number in range(90)]
    (tmp_path / "times.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    options = (*TASKS["regression"], f"--config.data.path={tmp_path / 'times.jsonl'}")
    assert train(config_file, tmp_path / "run", *options) == 0
    [measured] = printed(capsys, "eval", f"--workdir={tmp_path / 'run'}", "--json")
    answers = predict.predict(tmp_path / "run", [record["text"] for record in records])
    held_out = json.loads((tmp_path / "run" / "evaluation.json").read_text())["num_examples"]
    assert held_out == 9
    truth = np.array([record["number"] for record in records], np.float64)[-held_out:]
    values = np.array([answer["label"] for answer in answers])[-held_out:]
    assert len(set(np.round(values))) > 2
    errors, spread = values - truth, truth - truth.mean()
    assert measured["eval/mean_absolute_error"] == pytest.approx(np.abs(errors).mean(), rel=1e-4)
    assert measured["eval/root_mean_squared_error"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-4)
    assert measured["eval/r2"] == pytest.approx(1 - (errors**2).sum() / (spread**2).sum(), rel=1e-3)
    assert measured["eval/correlation"] == pytest.approx(np.corrcoef(values, truth)[0, 1], abs=1e-3)


@pytest.mark.parametrize("name", ASKED)
def test_answers(name, run_of, capsys, tmp_path):
    _, workdir = run_of(name)
    column = "source" if name == "seq2seq" else "text"
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({column: ASKED[name]}) + "\n" + json.dumps({column: ASKED[name] + " fox"}) + "\n")
    [one] = printed(capsys, "predict", f"--workdir={workdir}", f"--text={ASKED[name]}")
    both = printed(capsys, "predict", f"--workdir={workdir}", f"--input={records}")
    assert len(both) == 2 and both[0].keys() == one.keys()
    if name == "classification":
        assert one["label"] in LABELS and sum(one["probabilities"].values()) == pytest.approx(1)
        assert both[0]["probabilities"] == pytest.approx(one["probabilities"], rel=1e-4)
    elif name == "masked_lm":
        [candidates] = one["candidates"]
        assert [each["token"] for each in candidates][:3] == [each["token"] for each in both[0]["candidates"][0]][:3]
    else:
        assert both[0]["text"] == one["text"]
        assert one.keys() == {"text", "score", "log_probability", "finished"}


def test_as_many_candidates_as_are_asked_for(run_of, capsys):
    _, workdir = run_of("masked_lm")
    ask = ["predict", f"--workdir={workdir}", "--text=ant [MASK] [MASK]"]
    [usual] = printed(capsys, *ask)
    [fewer] = printed(capsys, *ask, "--num_candidates=3")
    assert [len(each) for each in usual["candidates"]] == [10, 10]
    assert fewer["candidates"] == [each[:3] for each in usual["candidates"]]


def test_a_completion_is_asked_for_as_it_was_learned(run_of, capsys):
    """The prompt goes on with the separator, which no user knows of."""
    _, workdir = run_of("completion")
    [said] = printed(capsys, "generate", f"--workdir={workdir}", "--prompt=ant bee", "--temperature=0", "--json")
    assert said["prompt"] == "ant bee\n"
    assert main(["generate", f"--workdir={workdir}", "--prompt=ant bee", "--temperature=0", "--cpu_devices=8"]) == 0
    assert capsys.readouterr().out == f"ant bee\n{said['text']}\n"


@pytest.mark.slow  # tests/inference/test_loaded_model.py draws with a seed
def test_what_is_drawn_belongs_to_its_source_and_seed(run_of, capsys):
    _, workdir = run_of("seq2seq")
    ask = ["predict", f"--workdir={workdir}", f"--text={ASKED['seq2seq']}", "--temperature=2"]
    [three] = printed(capsys, *ask, "--num_samples=3", "--seed=5")
    texts = [three, *three["alternatives"]]
    assert len({each["text"] for each in texts}) == 3 and all(
        each["score"] == each["log_probability"] for each in texts
    )
    for number, text in enumerate(texts):
        [again] = printed(capsys, *ask, f"--seed={5 + number}")
        assert again["text"] == text["text"] and again["score"] == pytest.approx(text["score"], abs=1e-4)


def test_a_search_gives_the_best_texts_first(run_of, capsys):
    _, workdir = run_of("seq2seq")
    ask = ["predict", f"--workdir={workdir}", f"--text={ASKED['seq2seq']}", "--num_beams=3"]
    [best] = printed(capsys, *ask, "--num_samples=3")
    texts = [best, *best["alternatives"]]
    scores = [each["score"] for each in texts]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    assert any(each["score"] > each["log_probability"] for each in texts)  # a text of several tokens
    [plain] = printed(capsys, *ask, "--length_penalty=0")
    assert plain["score"] == plain["log_probability"]
    [alone] = printed(capsys, *ask)
    assert alone == {name: best[name] for name in alone} and "alternatives" not in alone


@pytest.mark.parametrize("as_json", [False, True])
def test_records_come_from_standard_input(as_json, run_of, capsys, monkeypatch):
    _, workdir = run_of("classification")
    texts = ["ant bee", "{fox"]
    expected = [printed(capsys, "predict", f"--workdir={workdir}", f"--text={text}")[0]["label"] for text in texts]
    lines = [json.dumps({"text": text}) if as_json else text for text in texts]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    assert [each["label"] for each in printed(capsys, "predict", f"--workdir={workdir}")] == expected


@pytest.mark.parametrize(
    ("name", "options", "fragment"),
    [
        ("classification", ["--num_beams=2"], "are for tasks that write texts; task=classification writes none"),
        ("classification", ["--num_samples=2"], "are for tasks that write texts"),
        (
            "seq2seq",
            ["--num_beams=2", "--top_k=3", "--top_p=0.5"],
            "--num_beams searches for the best text, --top_k and --top_p samples",
        ),
        ("seq2seq", ["--num_beams=2", "--num_samples=3"], "3 hypotheses cannot be returned with --num_beams=2"),
        ("seq2seq", ["--num_candidates=3"], "--num_candidates is for tasks that fill masks; task=seq2seq fills none"),
        ("masked_lm", ["--num_candidates=0"], "masked_lm.num_candidates is 0; expected 1 or more"),
        ("seq2seq", ["--length_penalty=1"], "give --num_beams too"),
        ("seq2seq", ["--num_samples=0"], "--num_samples=0 must be at least 1"),
        ("seq2seq", ["--temperature=1", "--seed=-1"], "--seed=-1 is out of range"),
    ],
)
def test_wrong_ways_of_writing_are_refused(name, options, fragment, run_of, capsys):
    _, workdir = run_of(name)
    capsys.readouterr()
    assert main(["predict", f"--workdir={workdir}", f"--text={ASKED[name]}", *options]) == 2
    assert fragment in assert_refused(capsys)


def test_generate_and_predict_name_each_other(run_of, capsys):
    _, classifier = run_of("classification")
    _, language_model = run_of("completion")
    capsys.readouterr()
    assert main(["generate", f"--workdir={classifier}", "--prompt=a"]) == 2
    assert "jaxdp predict" in assert_refused(capsys)
    assert main(["predict", f"--workdir={language_model}", "--text=a"]) == 2
    assert "jaxdp generate" in assert_refused(capsys)


def test_a_label_that_was_not_trained_on_is_named_with_its_line(run_of, tmp_path, capsys):
    config_file, _ = run_of("classification")
    (tmp_path / "held.jsonl").write_text('{"text": "ant", "label": "ale"}\n{"text": "bee", "label": "gin"}\n')
    capsys.readouterr()
    options = (*TASKS["classification"], f"--config.data.eval_path={tmp_path / 'held.jsonl'}")
    assert train(config_file, tmp_path / "run", *options) == 2
    sentence = assert_refused(capsys)
    assert "held.jsonl, line 2" in sentence and "'gin'" in sentence


TEA, ALE = {"text": "ant", "label": "tea"}, {"text": "bee", "label": "ale"}


@pytest.mark.parametrize(
    ("name", "records", "held_out", "told"),
    [
        ("classification", [TEA] * 20, None, "18 training records have 'tea', expected 2 or more different labels"),
        ("classification", [TEA, ALE], [TEA, ALE | {"text": ""}], "held.jsonl, line 2: the text is empty"),
        ("classification", [TEA, {"text": ""} | ALE | {"text": ""}], [TEA], "records.jsonl, line 2: the text is empty"),
        ("classification", [TEA, {"text": "bee"}], [TEA], "records.jsonl, line 2 has no column 'label', only 'text'"),
        ("multi_label", [{"text": "ant", "labels": ["x", "y"]}], [{"text": "ant", "labels": ["y", "z"]}], "held.jsonl, line 1: the label 'z'"),
        ("regression", [{"text": "ant", "number": 1}, {"text": "bee", "number": "much"}], [{"text": "a", "number": 2}], "records.jsonl, line 2: the label is 'much', expected a finite number"),
        ("regression", [{"text": "ant", "number": 1}] * 2, [{"text": "a", "number": 2}], "All 2 training records have the same number"),
    ],
    ids=["one class", "empty held-out text", "empty text", "no column", "unseen label", "no number", "one number"],
)  # fmt: skip
def test_records_that_cannot_be_learned(name, records, held_out, told, run_of, tmp_path, capsys):
    options = [*TASKS[name], f"--config.data.path={tmp_path / 'records.jsonl'}"]
    if held_out:
        options.append(f"--config.data.eval_path={tmp_path / 'held.jsonl'}")
    for file, lines in (("records", records), ("held", held_out or [])):
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config_file, _ = run_of("classification")
    capsys.readouterr()
    assert train(config_file, tmp_path / "run", *options) == 2
    assert told in assert_refused(capsys)


def test_a_run_that_does_not_improve_stops_and_stays_stopped(run_of, tmp_path, capsys):
    config_file, _ = run_of("classification")
    options = (
        *TASKS["classification"], "--config.optim.learning_rate=1e-12", "--config.eval.every_steps=1",
        "--config.eval.patience=2", "--config.total_steps=40", "--config.eval.metric=eval/accuracy",
    )  # fmt: skip
    assert train(config_file, tmp_path / "run", *options) == 0
    said = capsys.readouterr().err
    assert "stopped early" in said
    best = re.search(r"of step (\d+) \(eval\.patience", said)[1]
    assert read_manifest(tmp_path / "run" / "checkpoints" / best).metrics["eval/accuracy"] is not None
    steps = [line["step"] for line in metrics_lines(tmp_path / "run")]
    assert steps[-1] < 10
    assert train(config_file, tmp_path / "run", *options) == 0
    assert "stopped early" in capsys.readouterr().err
    assert [line["step"] for line in metrics_lines(tmp_path / "run")] == steps


def test_a_model_that_cannot_learn_the_task(run_of, tmp_path, capsys):
    config_file, _ = run_of("classification")
    capsys.readouterr()
    assert train(config_file, tmp_path / "run", "--config.task=seq2seq", "--config.model.preset=nano") == 2
    assert "does not serve task='seq2seq'" in assert_refused(capsys)
