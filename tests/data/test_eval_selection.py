"""`data.eval_selection` from the configuration to rows, what is shown of it, and metrics over the labels that occur."""

import json

import numpy as np
import pytest
from tiny_runs import load, read_data, train
from tiny_tasks_data import CONFIG

from jaxdp.cli.main import main
from jaxdp.config import default_values
from jaxdp.config_diff import check_resumable
from jaxdp.errors import UserError

WORDS = ("ant", "bee", "cat", "dog")


def write_sorted(path, sizes, **others):
    """Records sorted by label: `sizes` of each."""
    records = [
        {"text": f"{WORDS[number % 4]} {label}", "label": label, **others}
        for label, size in sizes.items()
        for number in range(size)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def sorted_records(tmp_path):
    write_sorted(tmp_path / "records.jsonl", {"ale": 40, "milk": 30, "tea": 20})
    (tmp_path / "config.py").write_text(CONFIG.format(path=str(tmp_path / "records.jsonl")))
    return tmp_path


CLASSIFICATION = ("task=classification", "data.length=8")


def counts_of(data):
    rows = data.evaluation
    return np.bincount(rows.rows(np.arange(rows.num_rows))["label"], minlength=3).tolist()


def test_the_tail_of_sorted_labels_lacks_some_and_stratified_has_them_all(sorted_records):
    config_file = sorted_records / "config.py"
    tail = read_data(load(config_file, *CLASSIFICATION))
    assert counts_of(tail) == [0, 0, 9]
    assert tail.summary[1] == "3 labels, examples for training + validation: 'ale' 40 + 0, 'milk' 30 + 0, 'tea' 11 + 9"
    assert tail.summary[2] == (
        "WARNING: the validation split has no example of 'ale', 'milk': metrics are over the labels that occur; "
        "data.eval_selection=stratified holds out examples of every label"
    )
    stratified = read_data(load(config_file, *CLASSIFICATION, "data.eval_selection=stratified"))
    assert counts_of(stratified) == [4, 3, 2]
    assert stratified.summary[1:] == (
        "3 labels, examples for training + validation: 'ale' 36 + 4, 'milk' 27 + 3, 'tea' 18 + 2",
    )
    assert stratified.vocabularies.labels.counts == (36, 27, 18)
    random = read_data(load(config_file, *CLASSIFICATION, "data.eval_selection=random"))
    assert sum(counts_of(random)) == 9 and np.count_nonzero(counts_of(random)) > 1
    assert random.train.num_rows == 81


def test_the_seed_and_nothing_else_changes_what_is_held_out(sorted_records, monkeypatch):
    def held_out(*overrides):
        data = read_data(
            load(sorted_records / "config.py", *CLASSIFICATION, "data.eval_selection=stratified", *overrides)
        )
        rows = data.evaluation.rows(np.arange(data.evaluation.num_rows))
        return rows["tokens"].tolist()

    first = held_out()
    assert held_out(f"data.cache_dir={sorted_records / 'other'}", "data.num_workers=0") == first
    assert held_out("seed=1") != first
    assert held_out("seed=0") == first


@pytest.mark.slow
def test_workers_change_nothing(sorted_records):
    rows = []
    for workers in (0, 2):
        overrides = (
            "data.eval_selection=stratified",
            f"data.num_workers={workers}",
            f"data.cache_dir={sorted_records / str(workers)}",
        )
        data = read_data(load(sorted_records / "config.py", *CLASSIFICATION, *overrides))
        rows.append(
            [split.rows(np.arange(split.num_rows))["tokens"].tolist() for split in (data.train, data.evaluation)]
        )
    assert rows[0] == rows[1]


def test_several_labels_are_counted_one_by_one(tmp_path):
    write_sorted(tmp_path / "records.jsonl", {"al,mi": 20, "mi": 20, "": 20})
    (tmp_path / "config.py").write_text(CONFIG.format(path=str(tmp_path / "records.jsonl")))
    data = read_data(
        load(
            tmp_path / "config.py",
            *CLASSIFICATION,
            "classification.kind=multi_label",
            "data.eval_selection=stratified",
            "data.length=9",
        )
    )
    assert data.summary[1] == "2 labels, examples for training + validation: 'mi' 36 + 4, 'al' 18 + 2"
    assert data.evaluation.num_rows == 6


def test_whole_documents_are_held_out_at_random(tmp_path):
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text(f"{number}" * 100)
    (tmp_path / "config.py").write_text(CONFIG.format(path=str(tmp_path)))
    options = (
        "data.source=text",
        f"data.path={tmp_path}/*.txt",
        "data.packing=none",
        "data.length=128",
        "data.eval_fraction=0.3",
    )
    data = read_data(load(tmp_path / "config.py", *options, "data.eval_selection=random"))
    held_out = data.evaluation.rows(np.arange(3))["tokens"][:, 0] - ord("0")
    assert data.evaluation.num_rows == 3 and data.train.num_rows == 7
    assert held_out.tolist() != [7, 8, 9]  # which is the tail


REFUSED = {
    "unknown": (("data.eval_selection=first",), r"'first' is unknown; choose one of: tail, random, stratified"),
    "no labels": (("task=causal_lm", "data.eval_selection=stratified"), r"task=causal_lm does not read: set random"),
    "numbers": (("classification.kind=regression", "data.eval_selection=stratified"), r"has numbers: set random or tail"),
    "one document": (
        ("task=causal_lm", "data.source=text", "data.eval_selection=random"), r"selects whole documents, but the data has 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_selected_is_refused_with_what_serves(case, sorted_records):
    overrides, problem = REFUSED[case]
    with pytest.raises(UserError, match=problem):
        read_data(load(sorted_records / "config.py", *CLASSIFICATION, *overrides))


def test_a_run_with_its_own_eval_data_resumes_whatever_the_selection_says(tmp_path):
    tail, stratified = (json.loads(json.dumps(default_values())) for _ in range(2))
    stratified["data"]["eval_selection"] = "stratified"
    with pytest.raises(UserError, match=r"data\.eval_selection: 'tail' in the run, 'stratified' now"):
        check_resumable(tail, stratified, tmp_path)
    for values in (tail, stratified):
        values["data"]["eval_path"] = "test.csv"
    check_resumable(tail, stratified, tmp_path)


def test_tokens_have_no_records_to_select(tmp_path, sorted_records):
    np.arange(1000, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    overrides = (
        "data.source=tokens",
        f"data.path={tmp_path / 'tokens.bin'}",
        "model.vocab_size=1000",
        "data.eval_selection=random",
    )
    with pytest.raises(UserError, match=r"data\.source=tokens has none: set tail"):
        read_data(load(sorted_records / "config.py", *overrides))


def test_metrics_are_over_the_labels_that_occur_and_the_others_are_named(sorted_records, capsys):
    write_sorted(sorted_records / "records.jsonl", {"ale": 40, "milk": 2, "tea": 38})  # the tail is all of tea
    config_file, workdir = sorted_records / "config.py", sorted_records / "run"
    options = ("--config.task=classification", "--config.data.length=8", "--config.total_steps=2")
    assert (
        train(config_file, workdir, *options, "--config.eval.every_steps=0", "--config.checkpoint.every_steps=0") == 0
    )
    _, told = capsys.readouterr()
    assert "'ale' 40 + 0, 'tea' 30 + 8, 'milk' 2 + 0" in told
    assert "WARNING: the validation split has no example of 'ale', 'milk'" in told
    assert main(["eval", f"--workdir={workdir}", "--json"]) == 0
    out, told = capsys.readouterr()
    measured = json.loads(out)
    assert "the evaluated examples have none of 'ale', 'milk': metrics are over the labels that occur" in told
    report = json.loads((workdir / "evaluation.json").read_text())
    assert report["absent_labels"] == ["ale", "milk"]
    [tea] = [row for row in report["classes"] if row["label"] == "tea"]
    assert measured["eval/macro_f1"] == pytest.approx(tea["f1"])
    assert measured["eval/macro_recall"] == pytest.approx(measured["eval/accuracy"])
