"""`jaxdp predict` on whole files: read as training data is, answered record by record, in order and in bounded memory."""

import gzip
import io
import itertools
import json

import pyarrow
import pytest
from pyarrow import parquet
from tiers import others_slow
from tiny_runs import assert_refused, train
from tiny_tasks_data import CONFIG, LABELS, write_records

import jaxdp
from jaxdp.cli.main import main
from jaxdp.inference.prediction_requests import raw_records
from jaxdp.inference.predictor import Predictor
from jaxdp.inference.restored_model import restored_model

NUM_LONG = 100
"""More records than two devices answer at a time."""


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """run_of(*options): the work directory of a finished run, made once."""
    root = tmp_path_factory.mktemp("predict")
    write_records(root / "records.jsonl")
    (root / "config.py").write_text(CONFIG.format(path=str(root / "records.jsonl")))

    def run(*options):
        workdir = root / "_".join(options).replace("/", "_")[:200]
        if not workdir.exists():
            assert train(root / "config.py", workdir, *(f"--config.{option}" for option in options)) == 0
        return workdir

    return run


@pytest.fixture
def classifier(run_of):
    return run_of("task=classification")


def answers(capsys, workdir, *options):
    """(answers, what was printed on stderr)."""
    capsys.readouterr()
    assert main(["predict", f"--workdir={workdir}", *map(str, options), "--cpu_devices=8"]) == 0
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


def of_text(capsys, workdir, text):
    [answer], _ = answers(capsys, workdir, f"--text={text}")
    return answer


CSV = 'id,label,text\r\n7,tea,ant bee\r\n8,,""\r\n9,x,too,many\r\n10,ale,"dog, cat"\r\n'


@pytest.mark.parametrize("place", others_slow(["file", "gzip", "standard input"], "file", "standard input"))
def test_a_table_is_read_as_in_training(classifier, tmp_path, capsys, monkeypatch, place):
    """Header, byte order mark, quotes; a bad record has its error in its place, other fields are passed through."""
    content = ("\ufeff" + CSV).encode()
    path = tmp_path / ("a.csv.gz" if place == "gzip" else "a.csv")
    path.write_bytes(gzip.compress(content) if place == "gzip" else content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    found, said = answers(capsys, classifier, *([] if place == "standard input" else [f"--input={path}"]))
    first, empty, broken, last = found
    assert first == {"id": "7", "input_label": "tea"} | of_text(capsys, classifier, "ant bee")
    assert last == {"id": "10", "input_label": "ale"} | of_text(capsys, classifier, "dog, cat")
    assert empty.keys() == {"id", "input_label", "error"} and "line 3: the text is empty" in empty["error"]
    assert broken.keys() == {"error"} and "line 4: the row has 4 fields" in broken["error"]
    assert '2 of 4 records have no prediction: see the "error" at the position of each' in said
    assert ("standard input is read as csv" in said) == (place == "standard input")


@pytest.mark.parametrize("kind", others_slow(["json", "ndjson", "parquet", "tsv", "txt"], "json", "parquet", "tsv"))
def test_every_format_gives_the_same_labels(classifier, tmp_path, capsys, kind):
    texts, path = ["ant bee", "cat dog dog", "fox"], tmp_path / f"a.{kind}"
    records = [{"text": text, "n": number} for number, text in enumerate(texts)]
    if kind == "parquet":
        parquet.write_table(pyarrow.table({"text": texts, "n": [0, 1, 2]}), path)
    elif kind == "json":
        path.write_text("\ufeff" + json.dumps(records, indent=2))
    elif kind == "ndjson":
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        path.write_text(
            "\n".join(["n\ttext", *(f"{n}\t{text}" for n, text in enumerate(texts))] if kind == "tsv" else texts)
        )
    found, _ = answers(capsys, classifier, f"--input={path}")
    passed = [{"txt": {}, "tsv": {"n": str(n)}}.get(kind, {"n": n}) for n in range(3)]
    expected = [of_text(capsys, classifier, text) for text in texts]
    for answer, fields, alone in zip(found, passed, expected, strict=True):
        probabilities = alone.pop("probabilities")
        assert answer.pop("probabilities") == pytest.approx(probabilities, rel=1e-4)
        assert answer == fields | alone


def test_the_answer_keeps_its_names(classifier, tmp_path, capsys):
    record = {"text": "ant", "label": 1, "input_label": 2, "error": "none", "probabilities": [1], "odd": "\ud83d"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(record | {"text": 7}))
    (good, bad), _ = answers(capsys, classifier, f"--input={tmp_path / 'a.jsonl'}")
    kept = {
        "input_label": 1,
        "input_input_label": 2,
        "input_error": "none",
        "input_probabilities": [1],
        "odd": "\ud83d",
    }
    assert good == kept | {name: good[name] for name in ("label", "probabilities")} and good["label"] in LABELS
    assert bad == kept | {"error": bad["error"]}
    assert "line 2: it has int, not text in 'text'" in bad["error"]


@pytest.mark.parametrize("depth", [90, 400, 900, 5000])
def test_fields_that_are_nested_deeply(classifier, tmp_path, capsys, depth):
    (tmp_path / "a.jsonl").write_text('{"text": "ant", "x": ' + "[" * depth + "]" * depth + "}\n" + '{"text": "bee"}\n')
    (first, second), _ = answers(capsys, classifier, f"--input={tmp_path / 'a.jsonl'}")
    assert ("error" in first) == (depth > 100) and "label" in second


def test_a_nested_column_of_a_run_with_number_labels(run_of, tmp_path, capsys):
    nested = tmp_path / "nested.jsonl"
    texts = ["ant bee", "cat dog", "eel fox"] * 20
    nested.write_text("".join(json.dumps({"m": {"text": t}, "n": i % 3}) + "\n" for i, t in enumerate(texts)))
    workdir = run_of("task=classification", f"data.path={nested}", "data.text_column=m.text", "data.label_column=n")
    found, _ = answers(capsys, workdir, f"--input={nested}")
    assert [answer["m"]["text"] for answer in found] == texts and [answer["n"] for answer in found[:3]] == [0, 1, 2]
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"m": [{"text": text} for text in texts], "n": [0, 1, 2] * 20}), path)
    from_parquet, _ = answers(capsys, workdir, f"--input={path}")
    assert from_parquet == found and {answer["label"] for answer in found} <= {"0", "1", "2"}


def test_the_column_of_a_mixture(run_of, tmp_path, capsys):
    for name in ("a", "b"):
        write_records(tmp_path / f"{name}.jsonl")
    entries = [
        {"source": "jsonl", "path": str(tmp_path / f"{name}.jsonl"), "text_column": "source"} for name in ("a", "b")
    ]
    workdir = run_of("task=classification", f"data.mixture={tuple(entries)!r}")
    (tmp_path / "c.csv").write_text("source,text\nant bee,7\n")
    [found], _ = answers(capsys, workdir, f"--input={tmp_path / 'c.csv'}")
    assert found["text"] == "7" and found["label"] in LABELS


def test_many_records_are_answered_in_their_order(classifier, tmp_path, capsys):
    texts = [" ".join(("ant", "cat", "fox")[number % 3 :][:1] * (1 + number % 5)) for number in range(NUM_LONG)]
    lines = [json.dumps({"text": text if number % 7 else "", "id": number}) for number, text in enumerate(texts)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found, said = answers(capsys, classifier, f"--input={tmp_path / 'a.jsonl'}")
    assert [answer["id"] for answer in found] == list(range(NUM_LONG))
    assert [number for number, answer in enumerate(found) if "error" in answer] == list(range(0, NUM_LONG, 7))
    assert f"15 of {NUM_LONG} records have no prediction" in said
    by_text = {}
    for answer, text in zip(found, texts, strict=True):
        if "error" not in answer:
            assert by_text.setdefault(text, answer["label"]) == answer["label"]


@pytest.mark.parametrize("task", ["classification", "seq2seq"])
def test_records_without_end_are_answered_as_they_come(run_of, task):
    """Memory cannot grow with their number: only a few batches are read ahead of the answers."""
    num_read = itertools.count()
    records = ({"text": "ant bee", "source": "ant bee", "id": next(num_read)} for _ in itertools.count())
    found = Predictor(restored_model(run_of(f"task={task}"), "latest", "ema", 8))(raw_records(records))
    assert [answer["id"] for answer in itertools.islice(found, 5)] == [0, 1, 2, 3, 4]
    assert next(num_read) < 2000


def test_sources_keep_their_other_fields(run_of, tmp_path, capsys):
    (tmp_path / "a.tsv").write_text("id\tsource\ttext\n1\tant bee\tx\n2\t\ty\n")
    (good, bad), _ = answers(
        capsys, run_of("task=seq2seq"), f"--input={tmp_path / 'a.tsv'}", "--num_beams=2", "--num_samples=2"
    )
    assert good.keys() == {"id", "input_text", "text", "score", "log_probability", "finished", "alternatives"}
    assert bad.keys() == {"id", "input_text", "error"} and "the source is empty" in bad["error"]


def test_the_output_file_is_whole_or_absent(classifier, tmp_path, capsys):
    good, out = tmp_path / "a.csv", tmp_path / "out.jsonl"
    good.write_text(CSV)
    found, _ = answers(capsys, classifier, f"--input={good}")
    printed, _ = answers(capsys, classifier, f"--input={good}", f"--output={out}")
    assert printed == [] and [json.loads(line) for line in out.read_text().splitlines()] == found
    before = out.read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "ant"}\n' * 500)[:-8])
    capsys.readouterr()
    assert (
        main(
            [
                "predict",
                f"--workdir={classifier}",
                f"--input={tmp_path / 'cut.jsonl.gz'}",
                f"--output={out}",
                "--cpu_devices=8",
            ]
        )
        == 2
    )
    assert "was cut short" in assert_refused(capsys)
    assert out.read_bytes() == before and {path.name for path in tmp_path.iterdir()} == {
        "a.csv",
        "cut.jsonl.gz",
        "out.jsonl",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input={a}", "--output={a}"], "is the --input: give the name of another file"),
        (["--input={a}", "--output={dir}"], "is a directory"),
        (["--input={a}", "--output={dir}/no/x"], "cannot be written (No such file or directory)"),
        (["--text=ant", "--format=csv"], "--format applies to --input"),
        (["--text="], "--text: the text is empty"),
        (["--input="], "--input is empty; expected the path of a file or directory."),
        (["--input={a}", "--output="], "--output is empty; expected the path of a file or directory."),
        (["--input={empty}"], "is empty; give a file with records"),
        (["--input={header}"], "there is nothing to predict"),
        (["--input={dir}/none.csv"], "does not exist"),
        (["--input={a}", "--format=jsonl", "--step=77"], "has no such checkpoint"),
    ],
)
def test_what_cannot_be_predicted_at_all(classifier, tmp_path, capsys, options, message):
    files = {"a": CSV, "empty": "", "header": "id,text\n"}
    for name, content in files.items():
        (tmp_path / f"{name}.csv").write_text(content)
    names = {name: tmp_path / f"{name}.csv" for name in files} | {"dir": tmp_path}
    capsys.readouterr()
    assert (
        main(["predict", f"--workdir={classifier}", *(option.format(**names) for option in options), "--cpu_devices=8"])
        == 2
    )
    assert message in assert_refused(capsys)


def test_from_python(classifier):
    records = ["ant bee", {"text": "ant bee", "id": 3}, {"txt": "x"}, "\ud83d"]
    first, second, *bad = jaxdp.predict(str(classifier), iter(records), cpu_devices=8)
    assert second == {"id": 3} | first
    assert [answer.get("txt") for answer in bad] == ["x", None]
    for answer, message in zip(bad, ["has no text in 'text'", "half a surrogate pair"], strict=True):
        assert message in answer["error"]
