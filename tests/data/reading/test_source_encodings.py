"""Files in other encodings: read where `data.encoding` names it, recognised in the message where it does not."""

import dataclasses
import gzip
import json

import pytest

from jaxdp.data.reading.encodings import (
    as_utf8,
    check_encoding,
    guessed_encoding,
    guessed_wide_encoding,
)
from jaxdp.data.reading.file_content import read_lines
from jaxdp.data.reading.parallel_text import read_pairs
from jaxdp.data.reading.raw_records import open_input, read_raw
from jaxdp.data.reading.readers import read_jsonl, read_text
from jaxdp.data.reading.records import Columns
from jaxdp.data.reading.sources import SourceSpec, open_source
from jaxdp.data.reading.tables import read_csv
from jaxdp.errors import UserError

TEXT = Columns(("text",))
WORDS = "Grüße \u2013 Straße, naïve café"
ENCODINGS = ("cp1252", "utf-16", "utf-16-le", "utf-8-sig", "utf-32", "gb18030", "mac-roman")


def encoded(file, encoding):
    return dataclasses.replace(file, encoding=encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_every_text_format_is_read_in_its_encoding(save, encoding, ending):
    def file(name, text):
        content = text.encode(encoding)
        return encoded(save(name + ending, gzip.compress(content) if ending else content), encoding)

    lines = [f"{WORDS} {number}" for number in range(50)]
    table = file("a.csv", "text,n\n" + "".join(f'"{line}",1\n' for line in lines))
    assert [record.fields["text"] for record in read_csv(table, TEXT, "strict")] == lines
    objects = file("a.jsonl", "".join(json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in lines))
    assert [record.fields["text"] for record in read_jsonl(objects, TEXT, "strict")] == lines
    array = file("a.json", json.dumps([{"text": line} for line in lines], ensure_ascii=False))
    assert [record.fields["text"] for record in read_jsonl(array, TEXT, "strict")] == lines
    text = file("a.txt", "\n".join(lines))
    [record] = read_text(text, TEXT, "strict")
    assert record.fields["text"] == "\n".join(lines)


def test_characters_across_blocks(save, monkeypatch):
    monkeypatch.setattr("jaxdp.data.reading.file_content.BLOCK_BYTES", 3)
    file = encoded(save("a.txt", "aä€😀\nü".encode("utf-16")), "utf-16")
    assert list(read_lines(file, "strict")) == ["aä€😀", "ü"]


@pytest.mark.parametrize(
    ("blocks", "encoding", "found"),
    [
        ([b"ab\xc3", b"(x"], "utf-8", "byte 0xc3 at offset 2"),
        ([b"ab", b"c\xe2\x82"], "utf-8", "byte 0xe2 at offset 3"),
        ([b"a\x81", b" b"], "gb18030", "byte 0x81 at offset 1"),
        ([b"a\\ud800"], "unicode_escape", "surrogates not allowed"),
    ],
)
def test_a_wrong_byte_is_named_across_blocks(blocks, encoding, found):
    with pytest.raises(UserError, match=rf"a\.txt is not text in data\.encoding={encoding}: .*{found}"):
        list(as_utf8(iter(blocks), encoding, "strict", "a.txt"))


@pytest.mark.parametrize(
    ("content", "guess"),
    [
        ("Grüße, schöne".encode("latin-1"), "latin-1"),
        ("Grüße \u2013 schöne".encode("cp1252"), "cp1252"),
        ("text".encode("utf-16"), "utf-16"),
        ("text".encode("utf-32"), "utf-32"),
        ("你好世界".encode("gb18030"), None),
        ("Привет, мир".encode("cp1251"), None),
        (b"plain", None),
    ],
)
def test_an_encoding_is_guessed_from_few_bytes(content, guess):
    assert guessed_encoding(content) == guess


@pytest.mark.parametrize("read", [read_csv, read_jsonl, read_text])
@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        (
            "latin-1",
            r"is not UTF-8 text: byte 0xfc at offset .*; it looks like latin-1: set data\.encoding=latin-1, or set data\.errors=replace",
        ),
        ("utf-16", r"is not UTF-8 text: byte 0xff at offset 0; it looks like utf-16: set data\.encoding=utf-16, or"),
        (
            "gb18030",
            r"is not UTF-8 text: .*; set data\.encoding=NAME to the encoding that it has \(such as gb18030\), or",
        ),
    ],
)
def test_a_file_that_is_not_utf8_names_the_encoding_and_the_keys(save, read, encoding, told):
    words = "你好世界" if encoding == "gb18030" else "Grüße"
    content = {read_csv: f"text\n{words}\n", read_jsonl: f'{{"text": "{words}"}}\n', read_text: words}[read]
    with pytest.raises(UserError, match=told):
        list(read(save("a", content.encode(encoding)), TEXT, "strict"))


def test_bytes_that_are_not_of_the_encoding(save):
    file = encoded(save("a.txt", b"ab\x81c"), "cp1252")
    with pytest.raises(
        UserError, match=r"a\.txt is not text in data\.encoding=cp1252: byte 0x81 at offset 2; set data\.encoding"
    ):
        list(read_text(file, TEXT, "strict"))
    [record] = read_text(file, TEXT, "replace")
    assert record.fields["text"] == "ab\ufffdc"
    with pytest.raises(UserError, match=r"is not text in data\.encoding=utf-16"):
        list(read_text(encoded(save("b.txt", b"abc"), "utf-16"), TEXT, "strict"))


@pytest.mark.parametrize("name", ["latin-99", "base64", "", "utf-8\0", "rot13"])
def test_an_unknown_encoding_is_refused(name):
    with pytest.raises(UserError, match=r"data\.encoding=.* is unknown: expected a text encoding such as"):
        check_encoding(name)


@pytest.mark.parametrize(
    ("key", "source"),
    [
        ("encoding", "parquet"),
        ("encoding", "hf"),
        ("encoding", "stdlib"),
        ("delimiter", "jsonl"),
        ("delimiter", "text"),
    ],
)
def test_a_key_that_a_source_does_not_look_at_is_refused(key, source):
    with pytest.raises(UserError, match=rf"data\.{key}=.* means nothing with data\.source={source}"):
        open_source(SourceSpec(source=source, path="x", **{key: ";"}))


def test_a_source_hands_both_keys_to_every_file(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_bytes("label;text\nx;Grüße, Welt\n".encode("latin-1"))
    spec = {"source": "csv", "label_columns": ("label",), "encoding": "latin-1", "delimiter": ";"}
    train, evaluation = open_source(SourceSpec(path=str(tmp_path / "a.csv"), eval_path=str(tmp_path / "b.csv"), **spec))
    for [part] in (train, evaluation):
        assert [record.fields for record in part.read()] == [{"text": "Grüße, Welt", "label": "x"}]


NUL_TEXTS = {read_csv: "text\n{}\n", read_jsonl: '{{"text": "{}"}}\n', read_text: "{}\n"}


@pytest.mark.parametrize("read", NUL_TEXTS)
@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_text_of_wide_characters_without_a_mark_is_refused_and_read_where_it_is_named(save, read, ending, encoding):
    content = NUL_TEXTS[read].format("the cat sat on a mat").encode(encoding)
    file = save("a" + ending, gzip.compress(content) if ending else content)
    offset = content.index(0)
    told = rf"a{ending} has a NUL character at offset {offset}, .* it looks like {encoding} .*: set data\.encoding={encoding}; "
    with pytest.raises(UserError, match=told):
        list(read(file, TEXT, "strict"))
    [record] = read(encoded(file, encoding), TEXT, "strict")
    assert record.fields["text"].strip() == "the cat sat on a mat"


def test_blanks_alone_tell_utf16_of_another_script(save):
    file = save("a.txt", ("привет мир " * 40).encode("utf-16-le"))
    with pytest.raises(UserError, match=r"a NUL character at offset 13, .* data\.encoding=utf-16-le"):
        list(read_text(file, TEXT, "strict"))


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("block_bytes", [1, 3, 1 << 20])
def test_a_single_nul_is_found_at_its_offset_in_any_block(save, monkeypatch, place, block_bytes):
    monkeypatch.setattr("jaxdp.data.reading.file_content.BLOCK_BYTES", block_bytes)
    content = bytearray(b"aaaa\nbbbbb")
    content[place] = 0
    file = save("a.txt", bytes(content))
    for read in (lambda errors: read_text(file, TEXT, errors), lambda errors: read_lines(file, errors)):
        with pytest.raises(
            UserError, match=rf"a\.txt has a NUL character at offset {place}, .* binary .* data\.errors=replace"
        ):
            list(read("strict"))
    assert "\n".join(read_lines(file, "replace")) == content.decode().replace("\0", "\ufffd")


def test_both_sides_of_parallel_text_are_looked_at(save):
    good, bad = save("a.en", "one\ntwo\n"), save("a.de", b"ei\0ns\nzwei\n")
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(UserError, match=r"a\.de has a NUL character at offset 2"):
            list(read_pairs(*pair, "strict"))


def test_a_wrong_wide_encoding_is_named_with_its_nuls(save):
    file = encoded(save("a.txt", "text".encode("utf-32-le")), "utf-16-le")
    with pytest.raises(UserError, match=r"a\.txt, read as utf-16-le, has a NUL character at offset 1,"):
        list(read_text(file, TEXT, "strict"))


def test_a_nul_that_json_writes_out_is_a_character_like_others(save):
    [record] = read_jsonl(save("a.jsonl", r'{"text": "a\u0000b"}'), TEXT, "strict")
    assert record.fields["text"] == "a\0b"


@pytest.mark.parametrize(
    ("content", "guess"),
    [(b"a\0", None), (b"plain text", None), (b"\x7fELF" + bytes(60), None), (bytes(range(128)) * 8, None), (b"", None)],
)
def test_nuls_of_other_files_speak_for_no_encoding(content, guess):
    assert guessed_wide_encoding(content) == guess


@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_predict_reports_records_with_nuls_in_their_places(save, name):
    head = "text\n" if name.endswith("csv") else ""
    path = save(name, head.encode() + b"good\nb\0ad\ngood\n").path
    records = list(read_raw(open_input(path, "--input", None, None, ("text",)), ("text",), "strict"))
    assert [record.error is not None for record in records] == [False, True, False]
    assert f"line {2 + bool(head)}" in str(records[1].error)
    assert "has a NUL character at offset 1, " in str(records[1].error)
    kept = list(read_raw(open_input(path, "--input", None, None, ("text",)), ("text",), "replace"))
    assert "b\ufffdad" in (kept[1].value, *(kept[1].value.values() if head else ()))


def test_predict_refuses_a_table_with_nuls_in_its_header(save):
    path = save("a.csv", "text\ngood\n".encode("utf-16-le")).path
    with pytest.raises(UserError, match=r"a\.csv: its header has a NUL character, .*`iconv"):
        list(read_raw(open_input(path, "--input", None, None, ("text",)), ("text",), "strict"))
