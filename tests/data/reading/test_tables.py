import csv
import gzip
import io
import random

import pytest

from jaxdp.data.reading.files import DataFile
from jaxdp.data.reading.records import Columns
from jaxdp.data.reading.tables import read_csv
from jaxdp.errors import UserError

TEXT = Columns(("text",))


@pytest.fixture
def save(tmp_path):
    def save(name, content):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return DataFile(str(path), name, path.stat().st_size)

    return save


def read(file, columns=TEXT):
    return list(read_csv(file, columns, "strict"))


def texts(records):
    return [record.fields["text"] for record in records]


def test_csv_equals_what_python_wrote(save):
    rng = random.Random(0)
    rows = [["".join(rng.choices('ab,"\t\n;ü ', k=rng.randint(0, 8))) for _ in range(3)] for _ in range(200)]
    for name, dialect in (("a.csv", "excel"), ("a.tsv", "excel-tab"), ("a.tsv.gz", "excel-tab")):
        table = io.StringIO()
        csv.writer(table, dialect).writerows([["id", "text", "n"], *rows])
        content = table.getvalue().encode()
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
