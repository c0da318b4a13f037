import gzip
import tracemalloc
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from jaxdp.data.reading import arrow
from jaxdp.data.reading.arrow import read_parquet
from jaxdp.data.reading.files import DataFile, find_files
from jaxdp.data.reading.records import Columns
from jaxdp.errors import UserError

TEXT = Columns(("text",))


@pytest.fixture
def save(tmp_path):
    def save(columns, name="a.parquet", **options):
        path = tmp_path / name
        parquet.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **options)
        return DataFile(str(path), name, path.stat().st_size)

    return save


def read(file, columns=TEXT, errors="strict"):
    return list(read_parquet(file, columns, errors))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_every_kind_of_string(save, kind, monkeypatch):
    monkeypatch.setattr(arrow, "BATCH_ROWS", 2)
    texts = ["a", "ü🙂", "", "a", "b"]
    array = pa.array(texts).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(texts, kind)
    records = read(save({"text": array, "n": range(5), "x": texts}), Columns(("text",), ("n",)))
    assert [record.fields for record in records] == [{"text": text, "n": n} for n, text in enumerate(texts)]
    assert [record.origin for record in records] == [f"a.parquet, row {n}" for n in range(5)]


def test_labels(save):
    fields = {"i": 1, "b": True, "s": "x", "f": 0.5, "l": ["x", "ü"], "n": [1, 2], "e": []}
    columns = {name: [value] for name, value in fields.items()}
    columns |= {"text": ["a"], "i": pa.array([1], pa.uint8()), "e": pa.array([[]], pa.large_list(pa.string()))}
    [record] = read(save(columns), Columns(("text",), tuple(fields)))
    assert record.fields == fields | {"text": "a"}


def test_lists_of_labels_that_are_none(save):
    for value, found in ((None, "null"), (["y", None], "a list with null")):
        with pytest.raises(UserError, match=rf"row 1: column 'l' is {found}, expected a label"):
            read(save({"text": ["a", "b"], "l": [["x"], value]}), Columns(("text",), ("l",)))
    raw = pa.array([[b"x"], [b"ok", b"x\xffy"]], pa.list_(pa.binary())).cast(pa.list_(pa.string()), safe=False)
    with pytest.raises(UserError, match=r"row 1: column 'l'.*0xff"):
        read(save({"text": ["a", "b"], "l": raw}), Columns(("text",), ("l",)))


@pytest.mark.parametrize(
    "columns, wanted, message",
    [
        ({"Text": ["a"], "n": [1]}, TEXT, r"a\.parquet has no column 'text', only 'Text', 'n'"),
        ({"text": [1]}, TEXT, "a.parquet: column 'text' is of type int64, expected text"),
        ({"text": [["a"]]}, TEXT, "column 'text' is of type list"),
        ({"text": [b"a"]}, TEXT, "column 'text' is of type binary, expected text"),
        ({"text": pa.nulls(2)}, TEXT, "column 'text' is of type null, expected text"),
        ({"text": ["a"], "n": [[0.5]]}, Columns(("text",), ("n",)), "'n' is of type list<.*double>, expected a label"),
        ({"text": ["a"] * 300 + [None]}, TEXT, "a.parquet, row 300: column 'text' is null"),
    ],
)
def test_wrong_columns(save, columns, wanted, message):
    with pytest.raises(UserError, match=message):
        read(save(columns), wanted)


def test_strings_that_are_not_utf8(save, monkeypatch):
    monkeypatch.setattr(arrow, "BATCH_ROWS", 2)
    raw = pa.array([b"a", b"b", b"c", b"x\xffy"], pa.binary())
    file = save({"text": pa.StringArray.from_buffers(len(raw), raw.buffers()[1], raw.buffers()[2])})
    with pytest.raises(UserError, match=r"row 3: column 'text' is not UTF-8.*0xff at offset 1 of the text"):
        read(file)
    assert [record.fields["text"] for record in read(file, errors="replace")] == ["a", "b", "c", "x\ufffdy"]


def test_compressed_and_remote(save, tmp_path):
    content = Path(save({"text": ["a", "b"]}).path).read_bytes()
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(content))
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/corpus/c.parquet", content)
    for path in (tmp_path / "b.parquet.gz", "memory://corpus"):
        [file] = find_files(str(path), (".parquet",))
        assert [record.fields["text"] for record in read(file)] == ["a", "b"]
    filesystem.store.clear()


def test_damaged_files(save, tmp_path):
    file = save({"text": ["some text"] * 1000}, compression="none", use_dictionary=False)
    content = Path(file.path).read_bytes()
    for damaged in (b"no parquet at all", content[:-1], content[:100] + b"\xff" * 200 + content[300:], content[100:]):
        Path(file.path).write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.parquet is no Parquet file, or a damaged one \("):
            read(file)


def test_memory_is_that_of_a_batch_not_of_a_row_group(save):
    texts = [f"{n} " * 500 for n in range(20_000)]
    file = save({"text": texts}, compression="none", use_dictionary=False)
    del texts
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        records = read_parquet(file, TEXT, "strict")
        most, total = 0, 0
        for record in records:
            total += len(record.fields["text"])
            most = max(most, pa.total_allocated_bytes() - before)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total > 50e6
    assert most + peak < 25 << 20


def test_fields_of_nested_columns(save):
    pairs = [{"en": "one", "de": "eins"}, {"en": "two", "de": "zwei"}]
    file = save({"id": [1, 2], "translation": pairs})
    both = Columns(("translation.de", "translation.en"))
    assert [dict(record.fields) for record in read(file, both)] == [
        {"translation.de": pair["de"], "translation.en": pair["en"]} for pair in pairs
    ]
    with pytest.raises(UserError, match=r"no column 'translation.fr', only 'id', 'translation.en', 'translation.de'"):
        read(file, Columns(("translation.fr",)))
    with pytest.raises(UserError, match=r"column 'translation' is of type struct"):
        read(file, Columns(("translation",)))
    missing = save({"translation": [pairs[0], {"en": "two", "de": None}]}, "b.parquet")
    with pytest.raises(UserError, match=r"row 1: column 'translation.de' is null"):
        read(missing, both)


def test_two_columns_of_one_name(save):
    names = ["text", "label", "text", "nested", "nested", "n", "n"]
    nested = pa.array([{"en": "a"}])
    table = pa.table(
        [pa.array(["a"]), pa.array(["x"]), pa.array(["b"]), nested, nested, pa.array([1]), pa.array([2])], names
    )
    file = save(table)
    for columns in (TEXT, Columns(("nested.en",)), Columns(("label",), ("n",))):
        with pytest.raises(UserError, match=r"a\.parquet has 2 columns named '(text|nested|n)': rename all but one"):
            read(file, columns)
    [record] = read(file, Columns(("label",)))  # the others are not read
    assert record.fields == {"label": "x"}


def test_a_type_of_any_length_is_named_shortly(save):
    file = save({"text": pa.array([{f"field_{number}": number for number in range(1000)}])})
    with pytest.raises(
        UserError, match=r"of type struct<field_0: .*\.\.\. \([0-9,]+ characters\), expected text"
    ) as refused:
        read(file)
    assert len(str(refused.value)) < 600
    with pytest.raises(UserError, match=r"only 'text\.field_0', .* and 988 more: name one of these"):
        read(file, Columns(("body",)))
