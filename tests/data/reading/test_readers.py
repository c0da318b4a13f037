import gzip
import json
import random
import tracemalloc

import pytest

from jaxdp.data.reading import file_content
from jaxdp.data.reading.readers import read_jsonl, read_text
from jaxdp.data.reading.records import Columns, Record
from jaxdp.errors import UserError

TEXT = Columns(("text",))


def read(reader, file, columns=TEXT, errors="strict", **options):
    return list(reader(file, columns, errors, **options))


def texts(records):
    return [record.fields["text"] for record in records]


def test_text_keeps_its_bytes(save):
    text = "\ufeffünï\r\ncode\u2028\n"
    assert read(read_text, save("a.any", text)) == [Record({"text": text}, "a.any")]


@pytest.mark.parametrize("block_bytes", [1, 5, 16, 1 << 20])
def test_long_text_in_pieces_is_a_function_of_the_content(save, monkeypatch, block_bytes):
    monkeypatch.setattr(file_content, "BLOCK_BYTES", block_bytes)
    records = read(read_text, save("a", "one\ntwo three\nfour\n\nfive six\nseven"), piece_bytes=16)
    assert [(record.fields["text"], record.origin, record.continues) for record in records] == [
        ("one\ntwo three\n", "a", True),
        ("four\n\nfive six\n", "a, from byte 14", True),
        ("seven", "a, from byte 29", False),
    ]


def test_piece_sizes_at_the_edge(save):
    for text, expected in (
        ("x" * 16, ["x" * 16]),
        ("x" * 17, ["x" * 16, "x"]),
        ("x" * 15 + "\n" + "y", ["x" * 15 + "\n", "y"]),
        ("x" * 16 + "\n", ["x" * 16, "\n"]),
        (" " + "x" * 16, [" " + "x" * 15, "x"]),
        ("x" * 16 + " y", ["x" * 16, " y"]),
        ("x y  z" + "w" * 20, ["x y ", " z" + "w" * 14, "w" * 6]),
    ):
        records = read(read_text, save("a", text), piece_bytes=16)
        assert texts(records) == expected
        assert [record.continues for record in records] == [True] * (len(expected) - 1) + [False]


def test_without_newlines_pieces_end_between_characters(save):
    rng = random.Random(0)
    for _ in range(50):
        text = "".join(rng.choices("aü€🙂", k=60))
        pieces = texts(read(read_text, save("a", text), piece_bytes=11))
        assert "".join(pieces) == text
        assert all(8 <= len(piece.encode()) <= 11 for piece in pieces[:-1])


def test_text_that_is_not_utf8(save):
    file = save("a.txt", b"good\nand\xffbad")
    for piece_bytes in (1 << 20, 6):
        with pytest.raises(UserError, match=r"a\.txt is not UTF-8.*0xff at offset 8.*data\.errors=replace"):
            read(read_text, file, piece_bytes=piece_bytes)
        pieces = texts(read(read_text, file, errors="replace", piece_bytes=piece_bytes))
        assert "".join(pieces) == "good\nand\ufffdbad"
    continuation_bytes = save("b", b"\x80" * 40)
    assert len("".join(texts(read(read_text, continuation_bytes, errors="replace", piece_bytes=16)))) == 40


def test_memory_does_not_grow_with_the_file(save):
    line = json.dumps({"text": "x" * 1000}) + "\n"
    file = save("a.jsonl.gz", gzip.compress(line.encode() * 50_000))
    tracemalloc.start()
    try:
        sizes = [sum(1 for _ in read_jsonl(file, TEXT, "strict"))]
        sizes.append(sum(len(record.fields["text"]) for record in read_text(file, TEXT, "strict", 1 << 20)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [50_000, 50_000 * len(line)]
    assert peak < 10 << 20  # of 51 MB


def test_jsonl_takes_the_columns_and_counts_lines(save):
    content = (
        '\ufeff{"text": "ü\\n", "n": 1, "more": [1]}\r\n\n  \n{"n": true, "text": ""}\n'
        '{"n": "x", "text": "\\ud83d\\ude42"}'
    )
    records = read(read_jsonl, save("a.jsonl", content), Columns(("text",), ("n",)))
    assert records == [
        Record({"text": "ü\n", "n": 1}, "a.jsonl, line 1"),
        Record({"text": "", "n": True}, "a.jsonl, line 4"),
        Record({"text": "🙂", "n": "x"}, "a.jsonl, line 5"),
    ]


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"text": "a" "b"}', r"is no JSON \(Expecting ',' delimiter at column 14\)"),
        ('{"text": "a', r"is no JSON \(Unterminated string starting at at column 10\)"),
        ("text", r"is no JSON \(Expecting value at column 1\)"),
        ("[" * 100_000, r"is no JSON \(maximum recursion depth"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", r"is no JSON \(Exceeds the limit"),
        ('["a"]', "holds a list, expected a JSON object"),
        ('"a"', "holds a string, expected"),
        ("null", "holds null, expected"),
        ('{"Text": "a", "n": 1}', r"has no column 'text', only 'Text', 'n': name one of these in data\.text_column"),
        ("{}", "has no column 'text', only none at all"),
        ('{"text": null}', "column 'text' is null, expected text"),
        ('{"text": 1.5}', "column 'text' is a number, expected text"),
        ('{"text": ["a"]}', "column 'text' is a list, expected text"),
        ('{"text": true}', "column 'text' is a boolean, expected text"),
        ('{"text": "a\\ud83d"}', r"column 'text' has half a surrogate pair \(\\ud83d\) at character 1.*errors=replace"),
        (b'{"text": "\xff"}', r"is not UTF-8 text: byte 0xff at offset 27"),
    ],
)
def test_jsonl_errors_name_the_line(save, line, message):
    line = line if isinstance(line, bytes) else line.encode()
    file = save("a.jsonl", b'{"text": "good"}' + b"\n" + line + b"\n")
    records = read_jsonl(file, TEXT, "strict")
    assert next(records).fields == {"text": "good"}
    with pytest.raises(UserError, match=rf"a\.jsonl, line 2.*{message}"):
        next(records)


def test_jsonl_labels(save):
    values = ["a", 3, True, 1.5, ["a", "b"], [1, 2], []]
    lines = "".join(json.dumps({"text": "a", "n": value}) + "\n" for value in values)
    records = read(read_jsonl, save("a.jsonl", lines), Columns(("text",), ("n",)))
    assert [record.fields["n"] for record in records] == values
    broken = save("b.jsonl", b'{"text": "a", "n": ["x\\ud83d"]}')
    with pytest.raises(UserError, match=r"column 'n' has half a surrogate pair"):
        read(read_jsonl, broken, Columns(("text",), ("n",)))


def test_jsonl_label_errors(save):
    for value, found in (('["a", 1.5]', "a list"), ('["a", null]', "a list"), ("null", "null"), ("{}", "an object")):
        file = save("a.jsonl", f'{{"text": "a", "n": {value}}}')
        with pytest.raises(UserError, match=rf"column 'n' is {found}, expected a label"):
            read(read_jsonl, file, Columns(("text",), ("n",)))


def test_jsonl_replaces_what_is_no_text(save):
    file = save("a.jsonl", b'{"text": "\xffa\\ud83db\\ud83d\\ude42"}')
    assert texts(read(read_jsonl, file, errors="replace")) == ["\ufffda\ufffdb🙂"]
