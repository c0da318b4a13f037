"""JSON values: one a line, or the elements of one array."""

import json
import random
import tracemalloc
from pathlib import Path

import pytest

from jaxdp.data.reading import json_values
from jaxdp.data.reading.json_values import read_json
from jaxdp.data.reading.readers import read_jsonl
from jaxdp.data.reading.records import Columns
from jaxdp.errors import UserError


def some_value(chance, depth=0):
    if depth > 2 or chance.random() < 0.6:
        text = "".join(chance.choices('ab"\\ä🙂\n,[]{}', k=chance.randrange(12)))
        return chance.choice([text, 1, -12.5, 1e300, 123456789, True, None])
    values = [some_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return values if chance.random() < 0.5 else {f"{number}k": value for number, value in enumerate(values)}


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 40, 1 << 20])
@pytest.mark.parametrize("as_array", [True, False])
def test_values_do_not_depend_on_blocks(save, monkeypatch, block_bytes, as_array):
    chance = random.Random(block_bytes)

    def blocks(file, errors):
        content = Path(file.path).read_bytes()
        return (content[start : start + block_bytes] for start in range(0, len(content), block_bytes))

    monkeypatch.setattr(json_values, "read_text_blocks", blocks)
    for trial in range(40):
        values = [some_value(chance) for _ in range(chance.randrange(8))]
        texts = [json.dumps(value, ensure_ascii=trial % 2 == 0) for value in values]
        text = " [" + ",\n".join(texts) + " ]\n" if as_array else "\n".join(["{}", *texts])
        file = save("a.json", ("\ufeff" if trial % 3 == 0 else "") + text)
        assert [value for _, value in read_json(file, "strict")] == ([] if as_array else [{}]) + values


@pytest.mark.parametrize(
    ("text", "found", "message"),
    [
        ('[{"a": 1}, {"a" 2}, {"a": 3}]', 1, "element 2 is no JSON"),
        ("[1, 2", 2, "element 2 is followed by the end of the file, expected a comma"),
        ("[1,,2]", 1, "element 2 is no JSON"),
        ("[1 2]", 1, "element 1 is followed by '2'"),
        ("[1]]", 1, "there is more after the closing bracket"),
        ('["a', 0, "element 1 is no JSON"),
        ("[", 0, "element 1 is no JSON"),
    ],
)
def test_a_broken_array_is_named(save, text, found, message):
    values = read_json(save("a.json", text), "strict")
    for _ in range(found):
        next(values)
    with pytest.raises(UserError, match=rf"a\.json: .*{message}"):
        next(values)


def test_lines_after_a_broken_one_are_read(save):
    (_, bad), *rest = read_json(save("a.jsonl", '{"a" 1}\n\n{"a": 2}\n'), "strict")
    assert "line 1 is no JSON" in str(bad) and rest == [("line 3", {"a": 2})]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b'["a"]\n\xc3', "byte 0xc3 at offset 6"),
        (b'["a", "\xc3', "byte 0xc3 at offset 7"),
        (b'{"a": 1}\n\xc3', "line 2, is not UTF-8 text: byte 0xc3 at offset 9"),
    ],
)
@pytest.mark.parametrize("block_bytes", [7, 1 << 20])
def test_half_a_character_at_the_end_is_named(save, monkeypatch, block_bytes, content, where):
    monkeypatch.setattr("jaxdp.data.reading.file_content.BLOCK_BYTES", block_bytes)
    with pytest.raises(UserError, match=where):
        list(read_json(save("a.json", content), "strict"))


def test_carriage_returns_end_lines_in_every_json_file(save):
    for name in ("a.json", "a.jsonl"):
        assert [value for _, value in read_json(save(name, "1\r2\r"), "strict")] == [1, 2]


def test_an_array_is_read_in_bounded_memory(save):
    element = {"text": "x" * 1000}
    file = save("a.json", json.dumps([element] * 20_000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_json(file, "strict")) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_training_reads_an_array(save):
    records = list(read_jsonl(save("a.json", '[{"text": "a"}, {"text": "b", "n": 1}]'), Columns(("text",)), "strict"))
    assert [(record.fields, record.origin) for record in records] == [
        ({"text": "a"}, "a.json, element 1"), ({"text": "b"}, "a.json, element 2"),
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"a\.json, element 2 has no column 'text', only 'tex'"):
        list(read_jsonl(save("a.json", '[{"text": "a"}, {"tex": "b"}]'), Columns(("text",)), "strict"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a.b": "literal", "a": {"b": "nested"}}, "literal"),
        ({"a": {"b": "nested"}}, "nested"),
        ({"a.b": "literal"}, "literal"),
        ({"a": {"c": "x"}}, None),
        ({"a": "text"}, None),
    ],
)
def test_dotted_names_of_columns(save, value, expected):
    """A column that is literally named so wins, else the dots lead into objects."""
    records = read_jsonl(save("a.jsonl", json.dumps(value)), Columns(("a.b",)), "strict")
    if expected is None:
        with pytest.raises(UserError, match=r"line 1 has no column 'a\.b'"):
            next(records)
    else:
        assert next(records).fields == {"a.b": expected}
