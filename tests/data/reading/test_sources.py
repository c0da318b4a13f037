import gzip
import json

import pytest

from jaxdp.data.reading.sources import SourceSpec, check_keys, open_source
from jaxdp.errors import UserError


@pytest.fixture
def corpus(tmp_path):
    """The same three texts in every format, and one more for evaluation."""
    import pyarrow
    from pyarrow import parquet

    texts = {"a": "one\n", "b": 'two, "2"\n\nlines', "c": "drei ü"}
    rows = [{"text": text, "label": name} for name, text in texts.items()]
    for name, text in texts.items():
        save(tmp_path / "text" / f"{name}.txt", text)
    save(tmp_path / "jsonl" / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows[:2]))
    save(tmp_path / "jsonl" / "b.json.gz", json.dumps(rows[2]))
    save(tmp_path / "csv" / "a.csv", 'label,text\na,"one\n"\nb,"two, ""2""\n\nlines"\n')
    save(tmp_path / "csv" / "b.tsv", "text\tlabel\ndrei ü\tc\n")
    (tmp_path / "parquet").mkdir()
    for name, part in (("a", rows[:1]), ("b", rows[1:])):
        parquet.write_table(pyarrow.Table.from_pylist(part), tmp_path / "parquet" / f"{name}.parquet")
    return tmp_path


def save(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def opened(**options):
    return open_source(SourceSpec(**options))


def records(parts):
    return [record for part in parts for record in part.read()]


@pytest.mark.parametrize("source", ["text", "jsonl", "csv", "parquet"])
def test_every_format_gives_the_same_texts(corpus, source):
    parts, evaluation = opened(source=source, path=str(corpus / source))
    assert evaluation is None
    expected = ["one\n", 'two, "2"\n\nlines', "drei ü"]
    assert [record.fields for record in records(parts)] == [{"text": text} for text in expected]
    assert records(parts) == records(parts)  # parts are read again from their start
    assert all(part.num_bytes == (corpus / source / part.name).stat().st_size for part in parts)
    if source != "text":
        parts, _ = opened(source=source, path=str(corpus / source), label_columns=("label",))
        assert [record.fields["label"] for record in records(parts)] == ["a", "b", "c"]


def test_origins_do_not_depend_on_the_place(corpus):
    parts, _ = opened(source="jsonl", path=str(corpus / "**" / "*.json*"))
    assert [part.name for part in parts] == ["jsonl/a.jsonl", "jsonl/b.json.gz"]
    assert [record.origin for record in records(parts)] == [
        "jsonl/a.jsonl, line 1",
        "jsonl/a.jsonl, line 2",
        "jsonl/b.json.gz, line 1",
    ]


def test_evaluation_files(corpus):
    train, evaluation = opened(
        source="text", path=str(corpus / "text" / "[ab].txt"), eval_path=str(corpus / "text" / "c.txt")
    )
    assert [part.name for part in train] == ["a.txt", "b.txt"]
    assert [record.fields["text"] for record in records(evaluation)] == ["drei ü"]


def test_evaluation_files_must_not_be_trained_on(corpus):
    with pytest.raises(UserError, match=r"c\.txt is both in data\.path and in data\.eval_path"):
        opened(source="text", path=str(corpus / "text"), eval_path=str(corpus / "text" / "c.txt"))


PAIRS = {"source": "text", "columns": ("source", "target")}


@pytest.fixture
def parallel(tmp_path):
    """Two files a side to train on, of which the first target has no line, and one to evaluate on."""
    for name, source, target in (
        ("train/a", "", ""),
        ("train/b", "one\ntwo\n", "eins\nzwei\n"),
        ("dev/c", "three\n", "drei\n"),
    ):
        save(tmp_path / f"{name}.en", source)
        save(tmp_path / f"{name}.de", target)
    return tmp_path


def fields(parts):
    return [tuple(record.fields.values()) for record in records(parts)]


def test_pairs_of_two_files(parallel):
    train, evaluation = opened(path=str(parallel / "train/b.en"), target_path=str(parallel / "train/b.de"), **PAIRS)
    assert fields(train) == [("one", "eins"), ("two", "zwei")] and evaluation is None


def test_pairs_of_globs_and_folders_with_their_evaluation_files(parallel):
    train, evaluation = opened(
        path=str(parallel / "train/*.en"),
        target_path=str(parallel / "train/*.de"),
        eval_path=str(parallel / "dev/c.en"),
        eval_target_path=str(parallel / "dev/c.de"),
        **PAIRS,
    )
    assert [part.name for part in train] == ["a.en + a.de", "b.en + b.de"]  # the empty ones keep their places
    assert fields(train) == [("one", "eins"), ("two", "zwei")]
    assert fields(evaluation) == [("three", "drei")]
    train, _ = opened(path=str(parallel / "dev"), target_path=str(parallel / "dev"), **PAIRS)
    assert fields(train) == [("drei", "drei"), ("three", "three")]


@pytest.mark.parametrize(
    "places, message",
    [
        ({}, r"data\.source=text needs data\.target_path for a task that reads pairs: .* data\.source=csv, jsonl or parquet"),
        ({"path": None, "target_path": "b.de"}, r"data\.source=text needs data\.path: a file"),
        ({"target_path": "nowhere"}, r"^data\.target_path: \S*nowhere does not exist"),
        ({"target_path": "b.de", "eval_path": "c"}, r"data\.eval_path=\S*c is one side of pairs: set data\.eval_target_path"),
        ({"target_path": "b.de", "eval_target_path": "c"}, r"data\.eval_target_path=\S*c is one .*: set data\.eval_path to"),
        ({"target_path": "*.de"}, r"data\.path names 1 file and data\.target_path 2 files, .* \S*b\.de has no partner"),
        ({"target_path": "b.de", "eval_path": "a.en", "eval_target_path": "b.de"},
            r"b\.de is both in data\.target_path and in data\.eval_target_path"),
        ({"target_path": "b.de", "columns": ("text",)}, r"data\.target_path=\S*b\.de has the targets .* set task=seq2seq"),
        ({"eval_target_path": "b.de", "columns": ("text",)}, r"data\.eval_target_path=\S*b\.de has the targets of pairs"),
    ],
)  # fmt: skip
def test_pairs_with_a_side_missing_or_too_much(parallel, places, message):
    save(parallel / "train/a.en", "one\n")
    save(parallel / "train/a.de", "eins\n")
    paths = {key: value and str(parallel / "train" / value) for key, value in places.items() if key != "columns"}
    columns = {"columns": places["columns"]} if "columns" in places else {}
    with pytest.raises(UserError, match=message):
        opened(**{**PAIRS, "path": str(parallel / "train/b.en"), **paths, **columns})


def test_hugging_face_folder(corpus):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    data_set = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    datasets.DatasetDict({"train": data_set, "test": data_set}).save_to_disk(corpus / "hf")
    train, evaluation = opened(source="hf", path=str(corpus / "hf"), eval_split="test", label_columns=("label",))
    assert [record.fields for record in records(train)] == [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    assert [record.origin for record in records(evaluation)] == ["test, row 0", "test, row 1"]


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"source": "excel"},
            r"data\.source='excel' is unknown: expected one of stdlib, text, jsonl, csv, parquet, hf",
        ),
        ({"source": "stdlib", "errors": "ignore"}, r"data\.errors='ignore'"),
        ({"source": "text"}, r"data\.source=text needs data\.path"),
        ({"source": "csv"}, r"data\.source=csv needs data\.path"),
        ({"source": "hf"}, r"data\.source=hf needs data\.path"),
        (
            {"source": "text", "path": "x", "eval_split": "dev"},
            r"data\.eval_split=dev means nothing with .*data\.eval_path",
        ),
        ({"source": "hf", "path": "x", "eval_path": "y"}, r"data\.eval_path=y means nothing with .*data\.eval_split"),
        ({"source": "stdlib", "eval_path": "y"}, r"data\.eval_path=y means nothing with data\.source=stdlib"),
        (
            {"source": "stdlib", "columns": ("body",)},
            r"data\.source=stdlib has no records with body: expected text, or text and label, or source and target",
        ),
        ({"source": "text", "path": "x", "label_columns": ("label",)}, r"has no column 'label', only 'text'"),
        ({"source": "jsonl", "path": "nowhere"}, r"data\.path: nowhere does not exist"),
    ],
)
def test_wrong_specifications(options, message):
    with pytest.raises(UserError, match=message):
        opened(**options)


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"source": "tokens", "eval_path": "y"},
            r"data\.eval_path=y means nothing with data\.source=tokens: unset it\.$",
        ),
        (
            {"source": "hf_stream", "eval_path": "y"},
            r"data\.source=hf_stream: unset it \(data\.eval_split names a split",
        ),
        (
            {"source": "csv", "target_path": "y"},
            r"data\.target_path=y means nothing with data\.source=csv: unset it .*source_column and data\.target_column",
        ),
        (
            {"source": "stdlib", "eval_target_path": "y"},
            r"data\.eval_target_path=y means nothing with data\.source=stdlib",
        ),
        ({"source": "tokens", "target_path": "y"}, r"data\.target_path=y means nothing with data\.source=tokens"),
        ({"source": "hf_stream", "target_path": "y"}, r"data\.target_path=y means nothing with data\.source=hf_stream"),
        ({"source": "csv", "name": "y"}, r"data\.name=y means nothing with data\.source=csv"),
    ],
)
def test_keys_of_sources_that_others_open_are_checked_too(options, message):
    with pytest.raises(UserError, match=message):
        check_keys(SourceSpec(path="x", **options))


def test_first_record_is_checked_before_anything_is_prepared(corpus):
    with pytest.raises(UserError, match=r"a\.csv: its header has no column 'body', only 'label', 'text'"):
        opened(source="csv", path=str(corpus / "csv"), columns=("body",))
    save(corpus / "bad.txt", "")
    (corpus / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"bad\.txt is not UTF-8"):
        opened(source="text", path=str(corpus / "bad.txt"))
    parts, _ = opened(source="text", path=str(corpus / "bad.txt"), errors="replace")
    assert [record.fields["text"] for record in records(parts)] == ["\ufffd"]


def test_files_without_records(corpus):
    save(corpus / "e" / "a.jsonl", "\n\n")
    save(corpus / "e" / "b.jsonl.gz", "")
    with pytest.raises(UserError, match=r"data\.source=jsonl: .*/e has no record"):
        opened(source="jsonl", path=str(corpus / "e"))
    with pytest.raises(UserError, match=r"data\.source=jsonl: .*/e has no record"):
        opened(source="jsonl", path=str(corpus / "jsonl"), eval_path=str(corpus / "e"))
    save(corpus / "e" / "c.jsonl", '{"text": "a"}')
    assert len(records(opened(source="jsonl", path=str(corpus / "e"))[0])) == 1
