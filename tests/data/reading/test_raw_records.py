"""Records with all of their fields, however they come: format, compression, file or stream."""

import gzip
import io
import lzma

import pyarrow
import pytest
from pyarrow import parquet

from jaxdp.data.reading.raw_records import open_input, read_raw, recognize
from jaxdp.errors import UserError

BAD = "bad"


def parquet_bytes():
    table = {"id": [1, 2], "text": ["ä", None], "n": [{"a": 1}, None]}
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table(table), stream)
    return stream.getvalue()


def zstd(content):
    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as stream:
        stream.write(content)
    return out.getvalue().to_pybytes()


CONTENTS = {
    "csv": (
        b'\xef\xbb\xbfid,text\r\n1,"a, b"\r\n2,bad,row\r\n3,"x""y"\r\n4,"broken"q\r\n5,ok\xff\r\n6,end\r\n',
        [{"id": "1", "text": "a, b"}, BAD, {"id": "3", "text": 'x"y'}, BAD, BAD, {"id": "6", "text": "end"}],
    ),
    "tsv": (b"id\ttext\n1\ta\n2\tb\tc\n3\td\n", [{"id": "1", "text": "a"}, BAD, {"id": "3", "text": "d"}]),
    "jsonl": (
        b'\xef\xbb\xbf{"id": 1, "text": "a"}\n\n{bad\n[1]\n{"text": "\xc3\xa4"}\n"b"\n{"text": "\xff"}\n',
        [{"id": 1, "text": "a"}, BAD, BAD, {"text": "ä"}, "b", BAD],
    ),
    "ndjson": (b'{"text": "a"}\n{"text": "b"}', [{"text": "a"}, {"text": "b"}]),
    "json": (b'\xef\xbb\xbf [{"id": 1, "text": "a"},\n"b", 3]', [{"id": 1, "text": "a"}, "b", BAD]),
    "txt": (b"\xef\xbb\xbfone\ntwo\r\n\nfo\xff\nfive", ["one", "two", "", BAD, "five"]),
    "parquet": (parquet_bytes(), [{"id": 1, "text": "ä", "n": {"a": 1}}, {"id": 2, "text": None, "n": None}]),
}
COMPRESSIONS = {"": lambda content: content, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd}


def values_of(file, errors="strict"):
    return [BAD if record.error else record.value for record in read_raw(file, ["text"], errors)]


@pytest.mark.parametrize("place", ["file", "file without ending", "standard input"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", CONTENTS)
def test_the_same_records_from_everywhere(tmp_path, kind, compression, place):
    content, expected = CONTENTS[kind]
    content = COMPRESSIONS[compression](content)
    path = tmp_path / (f"records.{kind}{compression}" if place == "file" else "records")
    path.write_bytes(content)
    name = "-" if place == "standard input" else str(path)
    assert values_of(open_input(name, "--input", io.BytesIO(content), None, ["text"])) == expected


@pytest.mark.parametrize("kind", ["csv", "jsonl", "txt"])
def test_bytes_that_are_not_utf8_can_be_replaced(tmp_path, kind):
    (tmp_path / f"a.{kind}").write_bytes(CONTENTS[kind][0])
    values = values_of(open_input(str(tmp_path / f"a.{kind}"), "--input", io.BytesIO(), None, ["text"]), "replace")
    assert any("\ufffd" in (value["text"] if isinstance(value, dict) else value) for value in values)


@pytest.mark.parametrize(
    ("head", "form"),
    [
        (b"id,text\n", "csv"),
        (b'"id","text"\n1,2', "csv"),
        (b"text\nsomething", "csv"),
        (b"id\ttext\n", "tsv"),
        (b"a, text\n", "text"),
        (b"the text, of a line\n", "text"),
        (b"{fox\nbee\n", "text"),
        (b'{broken\n{"text": "a"}\n', "jsonl"),
        (b"[MASK] is what", "text"),
        (b'[ {"text"', "json"),
        (b"[]", "json"),
        (b"PAR1....", "parquet"),
        (b"", "text"),
    ],
)
def test_formats_are_recognised(head, form):
    assert recognize(head, ["text"]) == form


def test_a_given_format_beats_name_and_content(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"id,text\n1,x\n"))
    path = str(tmp_path / "a.txt.gz")
    assert values_of(open_input(path, "--input", io.BytesIO(), None, ["text"])) == ["id,text", "1,x"]
    assert values_of(open_input(path, "--input", io.BytesIO(), "csv", ["text"])) == [{"id": "1", "text": "x"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"id,txt\n1,2\n", "its header has no column 'text', .* it has 'id', 'txt'"),
        ("a.csv", b"text,text\n1,2\n", "its header names column 'text' more than once"),
        ("a.parquet", b"no parquet", "is no Parquet file"),
        ("a.jsonl.gz", gzip.compress(mtime=0, data=b'{"text": "a"}')[:-4], "was cut short"),
        ("a.csv", b"", "is empty"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        values_of(open_input(str(tmp_path / name), "--input", io.BytesIO(), None, ["text"]))


def test_one_file_is_read(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("text\nx\n")
    for name in (tmp_path, tmp_path / "*.csv"):
        with pytest.raises(UserError, match=r"is not one file"):
            open_input(str(name), "--input", io.BytesIO(), None, ["text"])
    with pytest.raises(UserError, match=r"--input: .*c\.csv does not exist"):
        open_input(str(tmp_path / "c.csv"), "--input", io.BytesIO(), None, ["text"])
