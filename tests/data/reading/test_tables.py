import csv
import dataclasses
import gzip
import io
import random
import re

import pytest

from jaxdp.data.reading.records import Columns
from jaxdp.data.reading.tables import parsed_delimiter, read_csv
from jaxdp.errors import UserError

TEXT = Columns(("text",))


def read(file, columns=TEXT):
    return list(read_csv(file, columns, "strict"))


def texts(records):
    return [record.fields["text"] for record in records]


def written(rows, dialect, quoting, line_end="\r\n"):
    """What Python's own writer makes of rows."""
    table = io.StringIO()
    csv.writer(table, dialect, quoting=quoting, lineterminator=line_end).writerows(rows)
    return table.getvalue()


def test_csv_equals_what_python_wrote(save):
    rng = random.Random(0)
    rows = [["".join(rng.choices('ab,"\t\n;ü ', k=rng.randint(0, 8))) for _ in range(3)] for _ in range(200)]
    for name in ("a.csv", "a.tsv", "a.tsv.gz"):
        dialect, quoting = ("excel", csv.QUOTE_MINIMAL) if name == "a.csv" else ("excel-tab", csv.QUOTE_ALL)
        content = written([["id", "text", "n"], *rows], dialect, quoting).encode()
        file = save(name, gzip.compress(content) if name.endswith(".gz") else content)
        records = read(file, Columns(("text",), ("id",)))
        assert [(r.fields["id"], r.fields["text"]) for r in records] == [(row[0], row[1]) for row in rows]
        assert records[0].fields.keys() == {"text", "id"}


def test_csv_counts_lines_not_rows(save):
    file = save("a.csv", '\ufeff\ntext,n\n"a\n\nb",1\n\nc,2\n"d",3')
    records = read(file)
    assert [(record.fields["text"], record.origin) for record in records] == [
        ("a\n\nb", "a.csv, line 3"),
        ("c", "a.csv, line 7"),
        ("d", "a.csv, line 8"),
    ]


def test_csv_field_of_any_size(save):
    text = "x," * 200_000
    assert texts(read(save("a.csv", f'text\n"{text}"\n'))) == [text]


@pytest.mark.parametrize(
    "content, message",
    [
        ("text,n\na,1\n\nb\n", r"a\.csv, line 4: the row has 1 field, the header 2 fields"),
        ("text\n\n\na, b\n", r"a\.csv, line 4: the row has 2 fields, the header 1 field"),
        ('text\na\n"b\nc\n', r"a\.csv, line 3: the row that begins here cannot be read \(unexpected end of data"),
        ('text\n"b" c\n', r"a\.csv, line 2: the row that begins here cannot be read"),
        ("text\na\rb\n", r"a\.csv, line 2: the row that begins here cannot be read"),
        ("id,label\n1,2\n", r"a\.csv: its header has no column 'text', only 'id', 'label'"),
        ("text,text\n1,2\n", r"a\.csv: its header names column 'text' more than once"),
        (b"text\na\n\xff\n", r"a\.csv, line 3, is not UTF-8 text: byte 0xff at offset 7"),
    ],
)
def test_csv_errors_name_the_line(save, content, message):
    with pytest.raises(UserError, match=message):
        read(save("a.csv", content))


def test_csv_without_rows(save):
    assert read(save("a.csv", "text,n\n")) == []
    assert read(save("a.csv", "\n\n")) == []


QUOTES = (
    '"',
    '""',
    '"""',
    '"a',
    'a"',
    '"a"',
    '"a" b',
    'a "b" c',
    '"a" or "b"',
    "'a'",
    'a""b',
    '"a""',
    '"a"b""',
    "",
    " ",
    ",",
    '", "',
    "ü\u2028\x0b",
)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tsv_is_the_same_plain_and_as_csv_writes_it(save, line_end, mark):
    rng = random.Random(0)
    drawn = ["".join(rng.choices('ab" ', k=rng.randint(0, 6))) for _ in range(2000)]
    # Plain, these look like what is quoted: a field in quotes, all quotes in it doubled.
    kept = [text for text in (*QUOTES, *drawn) if not re.fullmatch(r'"[^"]*(""[^"]*)+"', text)]
    assert len(kept) > 1900
    rows = [["text", "n"], *([text, str(number)] for number, text in enumerate(kept))]
    rows += [[number, text] for text, number in rows[1:]]
    tables = {
        "plain": "".join("\t".join(row) + line_end for row in rows),
        "minimal": written(rows, "excel-tab", csv.QUOTE_MINIMAL, line_end),
        "all": written(rows, "excel-tab", csv.QUOTE_ALL, line_end),
    }
    assert len(set(tables.values())) == 3
    for name, table in tables.items():
        records = read(save(f"{name}.tsv", mark + table), Columns(("text",), ("n",)))
        assert [[record.fields["text"], record.fields["n"]] for record in records] == rows[1:]
        assert records[-1].origin == f"{name}.tsv, line {len(rows)}"


@pytest.mark.parametrize(
    "field, expected",
    [
        ('"a ""b"" c"', 'a "b" c'),
        ('""""', '"'),
        ('"""a"""', '"a"'),
        ('"a"', '"a"'),  # a quotation: csv.writer would not have quoted what holds no quote
        ('""', '""'),
        ('"a"b"', '"a"b"'),
        ('"a""b', '"a""b'),
        ('a""b"', 'a""b"'),
    ],
)
def test_tsv_unquotes_only_what_a_writer_of_csv_has_quoted(save, field, expected):
    assert texts(read(save("a.tsv", f"n\ttext\n1\t{field}\n"))) == [expected]


def test_tsv_with_a_quoted_header_may_hold_tabs_and_ends_of_lines(save):
    content = '\n"text"\t"the\tnumber"\r\n"a\tb\nc"\t1\r\n\n""\t"2"\r\n'
    records = read(save("a.tsv", content), Columns(("text",), ("the\tnumber",)))
    assert [(record.fields["text"], record.origin) for record in records] == [
        ("a\tb\nc", "a.tsv, line 3"),
        ("", "a.tsv, line 6"),
    ]
    half_quoted = save("b.tsv", 'text\t"n"\n"a\t1\n')
    assert texts(read(half_quoted)) == ['"a']


def test_plain_tsv_counts_lines(save):
    content = '\ufeff\n\r\ntext\tn\r\n\r\n"a\t1\r\n \t\r\n\t"\r'
    records = read(save("a.tsv", content))
    assert [(record.fields["text"], record.origin) for record in records] == [
        ('"a', "a.tsv, line 5"),
        (" ", "a.tsv, line 6"),
        ("", "a.tsv, line 7"),
    ]
    assert read(save("b.tsv", "\n\n")) == []
    assert read(save("b.tsv", "text\n")) == []


@pytest.mark.parametrize(
    "content, message",
    [
        ("text\tn\na\t1\n\nb\n", r"a\.tsv, line 4: the row has 1 field, the header 2 fields; a field that holds a tab or the "
            r"end of a line.*in double quotes, the header's too, or a \.csv"),
        ('text\tn\n"a\tb"\t1\n', r"a\.tsv, line 2: the row has 3 fields, the header 2 fields; a field that holds"),
        ('"text"\t"n"\na\n', r"a\.tsv, line 2: the row has 1 field, the header 2 fields; put fields"),
        ('"text"\t"n"\n"a" b\t1\n', r"a\.tsv, line 2: the row that begins here cannot be read"),
        ("id\tlabel\n1\t2\n", r"a\.tsv: its header has no column 'text', only 'id', 'label'"),
        ("text\ttext\n1\t2\n", r"a\.tsv: its header names column 'text' more than once"),
        (b"text\na\n\xff\n", r"a\.tsv, line 3, is not UTF-8 text: byte 0xff at offset 7"),
    ],
)  # fmt: skip
def test_tsv_errors_name_the_line(save, content, message):
    with pytest.raises(UserError, match=message):
        read(save("a.tsv", content))


@pytest.mark.parametrize(
    ("name", "content", "delimiter", "given"),
    [
        ("a.csv", "label;text\nx;a, b\n", ";", ";"),
        ("a.csv", "label\ttext\nx\ta, b\n", "\t", r"\t"),
        ("a.csv", "label|text\nx|a, b\n", "|", "|"),
        ("a.tsv", 'label,text\nx,"a, b"\n', ",", ","),
        ("a.csv", "n;label;text;m\n1;x;a, b;2\n", ";", ";"),
    ],
)
def test_another_delimiter_is_named_and_then_read(save, name, content, delimiter, given):
    columns = Columns(("text",), ("label",))
    with pytest.raises(UserError) as refused:
        read(save(name, content), columns)
    used = "\t" if name.endswith(".tsv") else ","
    assert f"has no column 'text', only {content.splitlines()[0]!r}" in str(refused.value)
    assert (
        f"It was read with {used!r} between fields, which {delimiter!r} seems to be: set data.delimiter={delimiter!r}."
        in str(refused.value)
    )
    file = dataclasses.replace(save(name, content), delimiter=parsed_delimiter(given))
    assert [record.fields for record in read(file, columns)] == [{"text": "a, b", "label": "x"}]


def test_a_wrong_name_is_not_taken_for_a_wrong_delimiter(save):
    with pytest.raises(UserError) as refused:
        read(save("a.csv", "id,body\n1,x\n"))
    assert "only 'id', 'body': name one of these" in str(refused.value) and "data.delimiter" not in str(refused.value)


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n", "tab"])
def test_what_cannot_separate_fields_is_refused(delimiter):
    with pytest.raises(UserError, match=r"data\.delimiter=.* cannot separate fields: expected one character"):
        parsed_delimiter(delimiter)


def test_a_table_without_header_has_a_short_message(save):
    texts = [f"{'a long text; ' * 5000}", "x" * 100_000]
    for first in (",".join(texts), ",".join(f"c{number}" for number in range(50_000)), "y" * 200_000):
        with pytest.raises(UserError, match="A table begins with a row that names its columns: add one") as refused:
            read(save("a.csv", f"{first}\n{first}\n"))
        assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".csv.gz"])
def test_lines_that_end_with_carriage_returns_alone(save, kind):
    separator = "\t" if kind == ".tsv" else ","
    content = f"n{separator}text\r1{separator}one\r\r2{separator}two\r".encode()
    records = read(save(f"a{kind}", gzip.compress(content) if kind.endswith(".gz") else content))
    assert [(record.fields["text"], record.origin) for record in records] == [
        ("one", f"a{kind}, line 2"), ("two", f"a{kind}, line 4"),
    ]  # fmt: skip


def test_a_carriage_return_in_a_field_is_kept(save):
    assert texts(read(save("a.csv", 'text\n"a\rb"\n'))) == ["a\rb"]
