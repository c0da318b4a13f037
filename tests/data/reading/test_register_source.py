"""Sources of a user: registered with one call, checked, prepared and cached like the built-in ones."""

import json

import pytest
from tiers import others_slow
from tiny_runs import CONFIG, config_file, train

from jaxdp.data.reading import sources
from jaxdp.data.reading.record_source import SourceRecords
from jaxdp.data.reading.source_spec import SourceSpec
from jaxdp.data.reading.sources import open_evaluation, open_source, register_source
from jaxdp.errors import UserError

__all__ = ["config_file"]

OWN_SOURCE = """
from pathlib import Path

from jaxdp.data.reading.record_source import SourceRecords
from jaxdp.data.reading.sources import register_source


def read_squares(spec):
    def rows():
        for number in range(300):
            yield {{"question": f"{{number}} squared?", "text": f"{{number}} squared is {{number * number}}."}}
        with open({log!r}, "a") as log:
            log.write("read to the end\\n")

    return SourceRecords(fingerprint=Path({version!r}).read_text(), train=rows)


register_source("squares", read_squares)
"""


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(sources, "SOURCES", dict(sources.SOURCES))


@pytest.mark.parametrize("num_workers", others_slow([0, 2], 2))
def test_an_own_source_trains_and_is_cached_by_its_fingerprint(tmp_path, num_workers):
    log, version = tmp_path / "log", tmp_path / "version"
    own = OWN_SOURCE.format(log=str(log), version=str(version))
    (tmp_path / "config.py").write_text(own + CONFIG.format(text="unused").replace('"text"', '"squares"'))
    options = [
        "--config.total_steps=2",
        f"--config.data.cache_dir={tmp_path}/cache",
        f"--config.data.num_workers={num_workers}",
    ]

    def passes(run, fingerprint):
        log.write_text("")
        version.write_text(fingerprint)
        assert train(tmp_path / "config.py", tmp_path / run, *options) == 0
        metrics = [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        assert 0 < min(line["train/loss"] for line in metrics if "train/loss" in line) < 10
        return len(log.read_text().splitlines())

    assert passes("first", "squares 1") > 1
    assert passes("again", "squares 1") == 0
    assert passes("changed", "squares 2") > 0


def test_an_own_source_is_part_of_a_mixture(config_file, tmp_path):
    register_source("mine", lambda spec: SourceRecords("1", [{"text": f"{n} and {n}"} for n in range(200)]))
    text = config_file.parent / "text.txt"
    mixture = (
        f"--config.data.mixture=({{'source':'mine','weight':0.5}},{{'source':'text','path':'{text}','weight':0.5}})"
    )
    assert (
        train(
            config_file,
            tmp_path / "run",
            mixture,
            "--config.total_steps=2",
            f"--config.data.cache_dir={tmp_path}/cache",
        )
        == 0
    )
    [shares] = [
        line
        for line in map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
        if "data/share/mine" in line
    ][:1]
    assert 0 < shares["data/share/mine"] < 1


def fields(parts):
    return [dict(record.fields) for part in parts for record in part.read()]


def test_records_are_columns_of_the_dicts():
    rows = [{"text": "a", "n": {"k": 3}, "other": object()}, {"text": "b", "n": {"k": 4}}]
    register_source("mine", lambda spec: SourceRecords("1", rows, evaluation=lambda: iter(rows[:1])))
    spec = SourceSpec(source="mine", label_columns=("n.k",))
    train, evaluation = open_source(spec)
    assert fields(train) == [{"text": "a", "n.k": 3}, {"text": "b", "n.k": 4}]
    assert fields(train) == fields(train)
    assert [record.origin for record in train[0].read()] == ["mine, record 0", "mine, record 1"]
    assert fields(evaluation) == fields(open_evaluation(spec)) == [{"text": "a", "n.k": 3}]
    assert [part.stamp for part in (*train, *evaluation)] == ["1", "1"]


def test_the_reader_receives_the_keys_of_the_source():
    register_source("mine", lambda spec: SourceRecords("1", [{"text": f"{spec.path} {spec.split} {spec.encoding}"}]))
    train, _ = open_source(SourceSpec(source="mine", path="p", split="s", encoding="latin-1"))
    assert fields(train) == [{"text": "p s latin-1"}]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"text": "a"}], r"its reader must return SourceRecords, found list"),
        (
            SourceRecords("", [{"text": "a"}]),
            r"its fingerprint must be a non-empty string that changes with the records, found ''",
        ),
        (SourceRecords("1", iter([{"text": "a"}])), r"an iterator, which can be read once: give a list or a function"),
        (SourceRecords("1", [("a",)]), r"mine, record 0 is of type tuple, expected a dict"),
        (SourceRecords("1", [{"body": "a"}]), r"mine, record 0 has no column 'text', only 'body'"),
        (SourceRecords("1", [{"text": b"a"}]), r"mine, record 0: column 'text' is of type bytes, expected text"),
        (SourceRecords("1", [{"text": None}]), r"mine, record 0: column 'text' is null, expected text"),
        (SourceRecords("1", [{"text": "\ud800"}]), r"mine, record 0: column 'text' has half a surrogate pair"),
        (SourceRecords("1", lambda: None), r"data\.source=mine: its records must be an iterable of dicts.*found None"),
        (SourceRecords("1", {"text": "a"}), r"data\.source=mine: its records must be an iterable of dicts"),
        (SourceRecords("1", list), r"data\.source=mine: mine has no record"),
    ],
)
def test_wrong_records(records, message):
    register_source("mine", lambda spec: records)
    with pytest.raises(UserError, match=message):
        open_source(SourceSpec(source="mine"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, len), r"must be a string, found 3"),
        (("jsonl", len), r"'jsonl' is that of a built-in source"),
        (("mine", lambda: None), r"source 'mine': .* is called with the arguments \(spec\), but accepts none"),
        (("mine", []), r"source 'mine' must be a function from a SourceSpec to SourceRecords, found \[\]"),
    ],
)
def test_wrong_registrations(arguments, message):
    with pytest.raises(UserError, match=message):
        register_source(*arguments)


def test_an_unknown_source_names_the_registered_ones_and_the_nearest():
    register_source("squares", len)
    with pytest.raises(UserError, match=r"expected one of stdlib, .*python, squares; did you mean 'squares'\?"):
        open_source(SourceSpec(source="square"))
    with pytest.raises(UserError, match=r"python, squares\. A source of your own is registered by its module"):
        open_source(SourceSpec(source="excel"))


def test_evaluation_alone_needs_records_for_it():
    register_source("mine", lambda spec: SourceRecords("1", [{"text": "a"}]))
    with pytest.raises(UserError, match=r"data\.source=mine has no records to evaluate on"):
        open_evaluation(SourceSpec(source="mine"))


@pytest.mark.parametrize("key", ["eval_path", "eval_split"])
def test_a_validation_split_that_the_reader_ignores_is_refused(key):
    register_source("mine", lambda spec: SourceRecords("1", [{"text": "a"}]))
    with pytest.raises(UserError, match=rf"data\.{key}=x is set, but its reader returns no SourceRecords\.evaluation"):
        open_source(SourceSpec(source="mine", **{key: "x"}))
