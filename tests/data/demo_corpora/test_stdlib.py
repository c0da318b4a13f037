import ast
import collections
import itertools
import re
import sysconfig
from pathlib import Path

import pytest
from tiers import others_slow

from jaxdp.data.demo_corpora.stdlib import PACKAGES, interleave_packages, open_stdlib, package_of
from jaxdp.data.preparing.scan import kept_records, scan_parts
from jaxdp.data.reading.files import DataFile
from jaxdp.data.reading.records import Columns
from jaxdp.data.reading.source_spec import SourceSpec
from jaxdp.errors import UserError

STDLIB = SourceSpec(source="stdlib")
TEXT, LABELLED, PAIRS = Columns(("text",)), Columns(("text",), ("label",)), Columns(("source", "target"))


@pytest.fixture(scope="module")
def files():
    return open_stdlib(STDLIB, TEXT)[0]


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Writes {name: text} to a standard library of its own."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(text.encode())

    return write


def records(columns):
    return [record for part in open_stdlib(STDLIB, columns)[0] for record in part.read()]


def splits(columns, eval_fraction):
    """The records of both splits, as a run reads them."""
    parts = open_stdlib(STDLIB, columns)[0]
    scan = scan_parts(parts, None, columns, (), eval_fraction)
    return [[item.record for item in kept_records(scan, parts, None, held_out=held_out)] for held_out in (False, True)]


def files_of(records):
    return {record.origin.partition(",")[0] for record in records}


def test_files_are_plausible(files):
    names = [part.name for part in files]
    assert 600 < len(names) < 900
    assert 9e6 < sum(part.num_bytes for part in files) < 16e6
    assert names == sorted(names) and len(set(names)) == len(names)
    assert {"argparse.py", "json/decoder.py"} <= set(names)
    assert all(name.endswith(".py") and "\\" not in name for name in names)
    folders = {folder for name in names for folder in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "__pycache__"}


def test_text_is_the_files(files):
    [part] = [part for part in files if part.name == "json/decoder.py"]
    [record] = part.read()
    file = Path(sysconfig.get_path("stdlib"), "json/decoder.py")
    assert record.fields["text"].encode() == file.read_bytes()
    assert record.origin == "json/decoder.py"


@pytest.mark.parametrize("eval_fraction", others_slow([0.1, 0.2], 0.1))
def test_every_package_is_in_both_splits_and_no_file(eval_fraction):
    train, held_out = splits(LABELLED, eval_fraction)
    assert not files_of(train) & files_of(held_out)
    shares = {}
    for label in PACKAGES:
        counts = [sum(record.fields["label"] == label for record in split) for split in (train, held_out)]
        assert counts[0] >= 200 and counts[1] >= 20
        shares[label] = counts[1] / sum(counts)
    assert len(train) + len(held_out) == pytest.approx(4400, rel=0.1)
    assert all(eval_fraction / 2 < share < eval_fraction * 2 for share in shares.values()), shares


def test_the_package_does_not_stand_in_its_text():
    for record in records(LABELLED):
        assert record.fields["label"] == record.origin.partition("/")[0]
        assert not re.search(rf"\b{record.fields['label']}\b", record.fields["text"])


def test_statements_and_their_instructions():
    """Of every eighth file: all of them take seconds."""
    parts = open_stdlib(STDLIB, PAIRS)[0]
    assert not any(part.name.startswith("encodings/") for part in parts)
    assert len({part.name.partition("/")[0] for part in parts[-len(parts) // 10 :]}) > 15  # what is held out
    found = [record.fields for part in parts[::8] for record in part.read()]
    assert 6_000 < len(found) < 13_000
    for fields in found:
        assert re.match(r"[A-Z_0-9]+( |;|$)", fields["source"]), fields
        assert "<code object" not in fields["source"] or "<code object" in fields["target"], fields
        assert 0 < len(fields["target"]) <= 100 and "\n" not in fields["target"], fields


def test_origins_lead_to_the_line():
    def lines(record):
        name, _, number = record.origin.rpartition(", line ")
        return Path(sysconfig.get_path("stdlib"), name).read_text("utf-8").split("\n")[int(number) - 1 :]

    for record in itertools.chain(*(part.read() for part in open_stdlib(STDLIB, PAIRS)[0][::25])):
        assert ast.unparse(ast.parse(lines(record)[0].strip())) == record.fields["target"]
    for record in records(LABELLED)[::200]:
        first = record.fields["text"].split("\n")[0]
        assert first == re.sub(rf"\b{record.fields['label']}\b", "_", lines(record)[0])


def test_ends_of_lines_are_those_of_python(library):
    code = "y = 1\nx = y\n"
    library({"a.py": code, "b.py": code.replace("\n", "\r\n"), "c.py": code.replace("\n", "\r")})
    assert [record.fields["target"] for record in records(PAIRS)] == ["y = 1", "x = y"] * 3


def test_a_record_has_what_is_asked_for(library):
    library({"xml/a.py": "value = 1\n" * 30})
    [record] = records(Columns((), ("label",)))
    assert record.fields == {"label": "xml"}
    [record] = records(LABELLED)
    assert record.fields == {"text": "\n".join(["value = 1"] * 30), "label": "xml"}
    assert record.origin == "xml/a.py, line 1"


def test_code_that_cannot_be_read_is_named(library):
    library({"xml/a.py": "x = 1\nprint 'two'\n"})
    assert len(records(TEXT)) == 1
    for columns in (LABELLED, PAIRS):
        with pytest.raises(UserError, match=r"xml/a\.py, line 2, is not code"):
            records(columns)


def test_no_source(library):
    with pytest.raises(UserError, match=r"no \.py files.*data\.source=text"):
        open_stdlib(STDLIB, TEXT)[0]


@pytest.mark.parametrize(
    "columns, named", [(Columns(("body",)), "body"), (Columns(("source",), ("label",)), "source and label")]
)
def test_columns_that_there_are_not(columns, named):
    with pytest.raises(
        UserError, match=f"no records with {named}: expected text, or text and label, or source and target"
    ):
        open_stdlib(STDLIB, columns)[0]


def test_the_end_of_the_interleaved_files_has_every_package():
    sizes = {"a": [900, 50, 50], "b": [10] * 30, "c": [100] * 10}
    given = [DataFile("", f"{package}/{i}.py", size) for package, each in sizes.items() for i, size in enumerate(each)]
    order = interleave_packages(given)
    assert sorted(order, key=given.index) == given
    assert order == interleave_packages(given[::-1])
    last = collections.Counter()
    for file in order[::-1]:
        if sum(last.values()) >= 0.1 * sum(file.num_bytes for file in given):
            break
        last[package_of(file)] += file.num_bytes
    assert last == {"a": 100, "b": pytest.approx(30, abs=10), "c": pytest.approx(100, abs=100)}
    assert last["c"]


def test_a_module_of_its_own_has_no_package():
    assert [package_of(DataFile("", name, 1)) for name in ("ast.py", "xml/dom/minidom.py")] == ["", "xml"]
