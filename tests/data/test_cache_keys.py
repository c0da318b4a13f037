"""Cache entries hold what their names say, and their names change with what they hold."""

import hashlib

import numpy as np
import pytest
import tokenizers
from tiny_records import JSONL, LABELLED, TEXTS, write_records
from tiny_runs import load, read_data

from jaxdp.data import assembly as experiment_data
from jaxdp.data import tokenization as tokenizing
from jaxdp.data.cache_keys import prepare_version
from jaxdp.data.labels import LABELS_FORMAT
from jaxdp.data.preparing.examples import EXAMPLES_FORMAT
from jaxdp.data.preparing.scan import SCAN_FORMAT, DataChanged
from jaxdp.data.sequences.packing import PLAN_FORMAT
from jaxdp.data.tokenizers.base import ENCODING_FORMAT
from jaxdp.data.tokenizers.make import VOCABULARY_FORMAT
from jaxdp.errors import UserError
from jaxdp.source_code import normalized_source
from jaxdp.tasks import CausalLM, Classification, MaskedLM, Seq2Seq


@pytest.fixture
def read(config_file, tmp_path):
    """Reads the data of a configuration, with a cache of the test's own."""

    def read(*overrides, cache="cache"):
        places = (f"data.path={tmp_path}/data.jsonl", f"data.cache_dir={tmp_path}/{cache}")
        return read_data(load(config_file, *places, *overrides))

    write_records(tmp_path / "data.jsonl")
    return read


def first_rows(data):
    return {name: array.tolist() for name, array in data.train.rows(np.arange(data.train.num_rows)).items()}


@pytest.mark.parametrize(
    ("before", "overrides", "change"),
    [
        ("prepare_source", JSONL, {"texts": [text.replace("cat", "dog") for text in TEXTS]}),
        (
            "make_vocabularies",
            (*JSONL, "data.tokenizer=bpe:300"),
            {"texts": [text.replace("cat", "dog") for text in TEXTS]},
        ),
        ("make_vocabularies", LABELLED, {"num_labels": 2}),
    ],
    ids=["tokens", "tokenizer", "labels"],
)
def test_data_that_change_between_scan_and_preparation_leave_no_entry(
    read, tmp_path, monkeypatch, before, overrides, change
):
    """Rewritten after the scan and put back after the start: the next one trains on the right data."""
    expected = first_rows(read(*overrides, cache="undisturbed"))
    path, stage = tmp_path / "data.jsonl", getattr(experiment_data, before)

    def change_first(*arguments):
        write_records(path, **change)
        return stage(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(experiment_data, before, change_first)
        with pytest.raises(DataChanged, match=r"data\.jsonl changed while it was being prepared") as error:
            read(*overrides)
    assert error.value.exit_code == 2
    whole = {
        entry.name.partition("-")[0] for entry in (tmp_path / "cache").glob("*/") if (entry / "entry.json").exists()
    }
    assert whole == ({"tokenizer"} if before == "prepare_source" else set())
    write_records(path)
    assert first_rows(read(*overrides)) == expected


def test_validation_texts_that_change_leave_no_entry(read, tmp_path, monkeypatch):
    overrides = (*JSONL, "task=seq2seq", "model.preset=seq2seq_nano", "eval.num_scored=4")
    expected = read(*overrides, cache="undisturbed").pairs.references
    validation_texts = tokenizing.validation_texts

    def change_first(*arguments):
        write_records(tmp_path / "data.jsonl", [text.upper() for text in TEXTS])
        return validation_texts(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("jaxdp.data.sequences.make.validation_texts", change_first)
        with pytest.raises(DataChanged):
            read(*overrides)
    write_records(tmp_path / "data.jsonl")
    assert read(*overrides).pairs.references == expected


TASKS = (CausalLM, Classification, MaskedLM, Seq2Seq)
LIBRARY = "0.23.3"
"""Version of `tokenizers` that wrote the hashes below; another may write a tokenizer.json otherwise."""

GOLDEN = {
    ("scan", SCAN_FORMAT): "c4d07437093f846b",
    ("tokenizer", VOCABULARY_FORMAT): "1fb915ec416cb253",
    ("labels", LABELS_FORMAT): "310d2cfa259c2225",
    ("tokens", EXAMPLES_FORMAT, ENCODING_FORMAT, *(task.prepare_format for task in TASKS)): "f780307c34f0d5ca",
    ("plan", PLAN_FORMAT): "990a510411900b7e",
}
"""Kind of entry and the format numbers in its name -> hash of what is in some small entries.

A change of the code that changes one of these must raise its number and record the new hash: else entries that were
prepared before would be taken for what the code makes now.
"""


@pytest.mark.skipif(tokenizers.__version__ != LIBRARY, reason=f"hashes are of tokenizers {LIBRARY}")
def test_what_is_prepared_changes_only_with_a_format_number(read, tmp_path):
    cleaned = "data.cleaning=('unicode:NFC','urls','whitespace','deduplicate')"
    for overrides in (
        (*JSONL, cleaned),
        (*JSONL, "data.packing=documents", "data.long_documents=cut"),
        (*JSONL, "data.tokenizer=bpe:300"),
        (*JSONL, "data.tokenizer=wordpiece:120"),
        (*JSONL, "data.tokenizer=unigram:300"),
        (*JSONL, "task=masked_lm", "model.preset=encoder_nano"),
        LABELLED,
        (*JSONL, "task=seq2seq", "model.preset=seq2seq_nano"),
    ):
        read(*overrides)
    found = {}
    for key in GOLDEN:
        entries = sorted((tmp_path / "cache").glob(f"{key[0]}-*/"))
        contents = sorted(content_hash(entry) for entry in entries)
        found[key] = hashlib.sha256("".join(contents).encode()).hexdigest()[:16]
    assert found == GOLDEN


def content_hash(entry):
    files = sorted(path for path in entry.rglob("*") if path.is_file() and path.name != "entry.json")
    return hashlib.sha256(
        b"".join(str(path.relative_to(entry)).encode() + path.read_bytes() for path in files)
    ).hexdigest()


def test_comments_and_docstrings_are_not_code():
    source = 'X = 1\n"""About X."""\n\ndef f(a):\n    """Doubles."""\n    return a * 2  # twice\n'
    assert normalized_source(source) == normalized_source("X = 1\ndef f(a):\n\n    return (a * 2)")
    assert normalized_source(source) != normalized_source("X = 1\ndef f(a):\n    return a * 3")
    assert normalized_source("X = 'a'") != normalized_source("X = 'b'")


def test_the_task_of_a_user_is_known_by_its_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    versions = []
    for number, (comment, doubled) in enumerate([("", ""), ("  # a comment", ""), ("", " * 2")]):
        (tmp_path / f"theirs_{number}.py").write_text(
            "from jaxdp.tasks import CausalLM\n\nclass Mine(CausalLM):\n    def prepare(self, record, tokenizer):\n"
            f"        return {{'tokens': tokenizer.encode(record['text']{doubled})}}{comment}\n"
        )
        versions.append(prepare_version(__import__(f"theirs_{number}").Mine))
    assert versions[0] == versions[1] != versions[2]
    assert prepare_version(CausalLM) == [CausalLM.prepare_format]


def test_a_task_without_source_is_refused():
    """Its prepared data would be known by its code."""
    space = {}
    exec("from jaxdp.tasks import CausalLM\nclass Mine(CausalLM):\n    pass", space)
    with pytest.raises(UserError, match=r"the task Mine has no source file, .* define it in a \.py file of its own"):
        prepare_version(space["Mine"])
