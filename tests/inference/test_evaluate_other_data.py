"""`jaxdp eval` of data that the run was not trained with, and what it prints and writes."""

import json
import shutil

import numpy as np
import pytest
from tiers import others_slow
from tiny_runs import assert_refused, load, read_data, train, write_text
from tiny_tasks_data import CONFIG, LABELS, write_records

import jaxdp
from jaxdp.cli.main import main
from jaxdp.config import parse_config
from jaxdp.errors import UserError
from jaxdp.inference.evaluate import _merged
from jaxdp.inference.other_data import other_data

DEVICES = "--cpu_devices=8"


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """run_of(*options): the work directory of a finished run, made once; its data are gone."""
    root = tmp_path_factory.mktemp("evaluate")

    def run(*options):
        workdir = root / "_".join(options).replace("/", "_")
        if not workdir.exists():
            write_records(root / "records.jsonl")
            (root / "config.py").write_text(CONFIG.format(path=str(root / "records.jsonl")))
            assert train(root / "config.py", workdir, *(f"--config.{option}" for option in options)) == 0
            (root / "records.jsonl").unlink()
        return workdir

    return run


@pytest.fixture(scope="module")
def classifier(run_of):
    return run_of("task=classification")


@pytest.fixture
def other(tmp_path):
    """The records of the run again, elsewhere and as CSV: text, label, source and target."""
    write_records(tmp_path / "other.jsonl")
    records = list(map(json.loads, (tmp_path / "other.jsonl").read_text().splitlines()))
    for column in ("source", "target"):
        (tmp_path / column).write_text("".join(record[column] + "\n" for record in records))
    lines = [f"{record['text']},{record['label']},{record['source']},{record['target']}" for record in records]
    (tmp_path / "other.csv").write_text("\n".join(["words,kind,source,target", *lines]))
    return tmp_path


def evaluated(capsys, workdir, *options):
    capsys.readouterr()
    assert main(["eval", f"--workdir={workdir}", *map(str, options), DEVICES, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def metrics(result):
    return {name: value for name, value in result.items() if name.startswith("eval/")}


def test_other_files_are_measured_without_the_training_data(classifier, other, capsys):
    jsonl = evaluated(capsys, classifier, f"--config.data.eval_path={other / 'other.jsonl'}")
    assert (jsonl["split"], jsonl["data"], jsonl["eval/num_examples"]) == ("eval", str(other / "other.jsonl"), 90)
    columns = ("--config.data.source=csv", "--config.data.text_column=words", "--config.data.label_column=kind")
    csv = evaluated(capsys, classifier, f"--config.data.eval_path={other / 'other.csv'}", *columns)
    assert metrics(csv) == metrics(jsonl)
    report = json.loads((classifier / "evaluation.json").read_text())
    assert (report["data"], report["num_examples"]) == (str(other / "other.csv"), 90)
    said = jaxdp.predict(
        str(classifier), [json.loads(line) for line in (other / "other.jsonl").read_text().splitlines()], cpu_devices=8
    )
    right = [answer["label"] == answer["input_label"] for answer in said]
    assert jsonl["eval/accuracy"] == pytest.approx(np.mean(right))


def test_the_test_split_is_named_by_the_run_or_the_command(run_of, classifier, other, tmp_path, capsys):
    test = f"--config.data.test_path={other / 'other.jsonl'}"
    given = evaluated(capsys, classifier, "--split=test", test)
    assert (given["split"], given["data"]) == ("test", str(other / "other.jsonl"))
    workdir = shutil.copytree(classifier, tmp_path / "run")
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["test_path"] = str(other / "other.jsonl")
    (workdir / "config.json").write_text(json.dumps(config))
    assert evaluated(capsys, workdir, "--split=test") == given
    del config["data"]["test_path"], config["data"]["test_split"]  # a run of an earlier version
    (workdir / "config.json").write_text(json.dumps(config))
    assert evaluated(capsys, workdir, "--split=test", test) == given


@pytest.mark.parametrize("num_scored", others_slow([6, 0], 6))
def test_pairs_of_two_files_are_those_of_a_table(run_of, other, capsys, num_scored):
    """Texts are generated and scored too; how many is told."""
    workdir = run_of("task=seq2seq", f"eval.num_scored={num_scored}")
    table = evaluated(capsys, workdir, "--config.data.source=csv", f"--config.data.eval_path={other / 'other.csv'}")
    sides = (f"--config.data.eval_path={other / 'source'}", f"--config.data.eval_target_path={other / 'target'}")
    files = evaluated(capsys, workdir, "--config.data.source=text", *sides)
    assert metrics(files) == metrics(table) and table["eval/num_examples"] == 90
    assert table.get("eval/num_scored", 0) == num_scored


def test_ready_made_tokens(config_file, tmp_path, capsys):
    tokens = np.random.default_rng(0).integers(0, 50, 4000).astype("<u2")
    for name, part in (("all", tokens), ("end", tokens[3600:])):
        part.tofile(tmp_path / f"{name}.bin")
    options = (
        "--config.data.source=tokens",
        f"--config.data.path={tmp_path / 'all.bin'}",
        "--config.model.vocab_size=50",
    )
    assert train(config_file, tmp_path / "run", *options) == 0
    own = evaluated(capsys, tmp_path / "run")
    named = evaluated(capsys, tmp_path / "run", f"--config.data.eval_path={tmp_path / 'end.bin'}")
    assert metrics(named) == metrics(own)


def test_classes_are_printed_and_where_the_run_cannot_be_written_that_is_said(classifier, other, tmp_path, capsys):
    workdir = shutil.copytree(classifier, tmp_path / "run")
    (workdir / "evaluation.json").unlink(missing_ok=True)
    (workdir / "evaluation.json").mkdir()
    capsys.readouterr()
    assert main(["eval", f"--workdir={workdir}", f"--config.data.eval_path={other / 'other.jsonl'}", DEVICES]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("label"))
    assert lines[start].split() == ["label", "precision", "recall", "f1", "support"]
    assert [line.split()[0] for line in lines[start + 1 :]] == list(LABELS)
    assert [line.split()[-1] for line in lines[start + 1 :]] == ["30", "30", "30"]
    assert "evaluation.json is not written" in err and "its numbers are complete" in err
    assert not list(workdir.glob("*.partial"))


def test_every_report_is_in_the_file():
    """A task that summarises and scores: the last one used to win."""
    merged = _merged({"summary": {"kind": "x", "num_examples": 3}, "score": {"num_examples": 2, "samples": []}})
    assert merged == {"kind": "x", "num_examples": 3, "score_num_examples": 2, "samples": []}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split=test"], "--split=test needs data that the run has not seen"),
        (["--split=train", "--config.data.eval_path=x.jsonl"], "--split=train is that of the run, but data.eval_path"),
        (["--config.data.eval_path=none.jsonl"], "data.eval_path: none.jsonl does not exist"),
        (["--config.data.eval_split=test"], "data.eval_split=test means nothing with data.source=jsonl: set data.eval_path instead"),
        (["--split=test", "--config.data.test_split=a"], "data.test_split=a means nothing with data.source=jsonl: set data.test_path"),
        (["--config.data.source=hf", "--config.data.eval_path=x"], "data.eval_path=x means nothing with data.source=hf"),
        (["--config.data.tokenizer=char"], "data.tokenizer belongs to the run"),
        (["--config.optim.learning_rate=1"], "--config.optim.learning_rate cannot be changed in an evaluation"),
        (["--config.data.evalpath=x"], "unknown configuration key 'data.evalpath'; did you mean 'data.eval_path'?"),
        (["--config.data.path={other}"], "or name other data with --config.data.eval_path=FILE"),
        (["--num_batches=0"], "0 is not a number of batches of 1 or more"),
    ],
)  # fmt: skip
def test_what_cannot_be_evaluated(classifier, other, capsys, options, message):
    capsys.readouterr()
    options = [option.format(other=other / "other.csv") for option in options]
    if "--config.data.path=" in options[0]:
        write_records(other / "other.csv")
        with open(other / "other.csv", "a") as file:
            file.write(json.dumps({"text": "more", "label": "tea"}) + "\n")
    assert main(["eval", f"--workdir={classifier}", *options, DEVICES]) == 2
    assert message in assert_refused(capsys)


def test_a_run_on_a_mixture_asks_how_others_are_read(config_file, tmp_path, capsys):
    workdir = tmp_path / "run"
    write_text(tmp_path / "a.txt")
    mixture = f"({{'source':'text','path':'{tmp_path / 'a.txt'}','weight':1.0}},)"
    train(config_file, workdir, f"--config.data.mixture={mixture}", "--config.data.path=None", "--config.total_steps=1")
    capsys.readouterr()
    assert main(["eval", f"--workdir={workdir}", f"--config.data.eval_path={tmp_path / 'a.txt'}", DEVICES]) == 2
    assert "say how the other data are read, with --config.data.source=text" in assert_refused(capsys)
    assert (
        evaluated(capsys, workdir, f"--config.data.eval_path={tmp_path / 'a.txt'}", "--config.data.source=text")[
            "eval/loss"
        ]
        > 0
    )


def test_a_run_on_the_standard_library_asks_how_others_are_read():
    config = parse_config({"total_steps": 1, "data": {"source": "stdlib"}})
    with pytest.raises(
        UserError, match=r"reads no files: say how the other data are read, with --config\.data\.source=text"
    ):
        other_data(config, "eval", {"eval_path": "a.txt"})
    assert other_data(config, "eval", {"eval_path": "a.txt", "source": "text"}).data.eval_path == "a.txt"


def test_a_file_that_moves_to_the_other_split_is_prepared_anew(config_file, tmp_path):
    """The same files in the same order, another boundary: the cache entry must not be that of the first."""
    for number in range(3):
        write_text(tmp_path / f"{number}.txt", num_words=200 + 100 * number, seed=number)

    def sizes(train_files, eval_files):
        options = (f"data.path={tmp_path}/{train_files}.txt", f"data.eval_path={tmp_path}/{eval_files}.txt")
        data = read_data(load(config_file, *options))
        return data.train.num_rows, data.evaluation.num_rows

    first, second = sizes("[01]", "2"), sizes("0", "[12]")
    assert first[0] > second[0] and first[1] < second[1]
