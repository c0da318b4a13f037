"""Reader of CSV and TSV tables."""

import csv
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

from jaxdp.data.reading.file_content import read_lines
from jaxdp.data.reading.files import DataFile
from jaxdp.data.reading.records import Columns, Record, missing_column
from jaxdp.errors import UserError

_QUOTED_LINE = re.compile(r'"(?:[^"]|"")*+"(?:\t"(?:[^"]|"")*+")*+')
"""Line of tab-separated fields that are all in double quotes."""

_CSV_CURE = "put fields that hold separators or ends of lines in double quotes."
_PLAIN_CURE = (
    "a field that holds a tab or the end of a line can only be read from a .tsv file with every field in "
    "double quotes, the header's too, or a .csv file: write it as one of these."
)

MAX_HEADER = 1000
"""Characters of a single field above which it is a record rather than a header."""

DELIMITERS = (";", "\t", "|", ",")
"""Characters that usually separate fields."""

Row = tuple[int, list[str] | UserError]
"""Number of the first line of the row; its fields, or the error if they cannot be read."""


def read_csv(file: DataFile, columns: Columns, errors: str) -> Iterator[Record]:
    """Yields one record per row of a table whose first row names the columns; blank lines are skipped.

    Fields are separated by commas, or by `file.delimiter`. A field in double quotes may contain separators, doubled quotes and
    line ends.

    `.tsv` files without `file.delimiter` are separated by tabs. If every header field is quoted, CSV quoting rules apply.
    Otherwise a line is a row and quotes are literal, with one exception, so that the output of Python's `csv.writer` is read
    correctly: it quotes a field that contains quotes and doubles those, so a quoted field whose inner quotes are all
    doubled loses the outer ones (`"a ""b"" c"` is `a "b" c`; `"a"` stays).

    Args:
        file: File in UTF-8 or its `encoding`; lines end with LF or CRLF, or all with CR.
        columns: Columns that the header must name; other columns are left out.
        errors: See `readers.read_text`.

    Raises:
        UserError: The file cannot be read or is not UTF-8; quotes are wrong; a column is missing; a row has more or fewer
            fields than the header. Names the line where the row begins.

    Source: RFC 4180 (comma-separated); IANA text/tab-separated-values (plain).
    Differs: the plain kind has no quoting at all; the quotes of `csv.writer` are removed here.
    """
    header, rows = read_table(file, errors)
    for column in columns.names if header else ():
        if header.count(column) != 1:
            if column in header:
                raise UserError(f"{file.path}: its header names column {column!r} more than once; rename one.")
            raise missing_column(f"{file.path}: its header", column, header, _hint(file, header, columns.names))
    indices = {column: header.index(column) for column in columns.names if header}
    for number, row in rows:
        if isinstance(row, UserError):
            raise row
        yield Record({column: row[i] for column, i in indices.items()}, f"{file.name}, line {number}")


def _hint(file: DataFile, header: list[str], wanted: Sequence[str]) -> str:
    """Returns another possible cause for a header without a wanted column: the delimiter, or that it is not a header."""
    delimiter = guessed_delimiter(file, header, wanted)
    if delimiter:
        return f" It was read with {delimiter_of(file)!r} between fields, which {delimiter!r} seems to be: set data.delimiter={delimiter!r}."
    return " A table begins with a row that names its columns: add one if this file begins with a record."


def guessed_delimiter(file: DataFile, header: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Returns the delimiter that gives a header the wanted columns, or several columns instead of one; None if none does.

    Args:
        file: Table.
        header: First row, with the delimiter that was used.
        wanted: Wanted columns.
    """
    used = delimiter_of(file)
    for delimiter in DELIMITERS:
        names = next(csv.reader([used.join(header)], delimiter=delimiter), []) if delimiter != used else []
        if set(wanted) <= set(names) or (len(header) == 1 and len(names) > 1 and len(header[0]) < MAX_HEADER):
            return delimiter
    return None


def delimiter_of(file: DataFile) -> str:
    """Returns the delimiter of a table: `data.delimiter`, else a tab in `.tsv` files and a comma in others."""
    return file.delimiter or ("\t" if file.kind == ".tsv" else ",")


def parsed_delimiter(name: str | None) -> str | None:
    """Returns the character that `data.delimiter` names; None if it is unset.

    Args:
        name: The character itself; for a tab also a backslash and `t`, as a shell passes it.

    Raises:
        UserError: It is not a single character, or cannot separate fields.
    """
    delimiter = "\t" if name == "\\t" else name
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise UserError(
            f"data.delimiter={name!r} cannot separate fields: expected one character such as ',', ';', '|' or '\\t' for a tab."
        )
    return delimiter


def read_table(file: DataFile, errors: str) -> tuple[list[str], Iterator[Row]]:
    """Reads the header of a table, and opens the rows below it.

    Args:
        file: See `read_csv`.
        errors: See `read_csv`.

    Returns:
        (names of the columns, empty if there is no row; iterator of rows (line, fields as in the header, or the error of a
        row that cannot be read). Rows after a bad one are read as well.
    """
    rows, cure = _rows(file, errors)
    _, header = next(rows, (0, []))
    if isinstance(header, UserError):
        raise header
    return header, _checked_rows(file, rows, header, cure)


def _checked_rows(file: DataFile, rows: Iterator[Row], header: list[str], cure: str) -> Iterator[Row]:
    for number, row in rows:
        if not isinstance(row, UserError) and len(row) != len(header):
            row = UserError(
                f"{file.path}, line {number}: the row has {_count(row)}, the header {_count(header)}; {cure}"
            )
        yield number, row


def _rows(file: DataFile, errors: str) -> tuple[Iterator[Row], str]:
    """Returns the rows that are not blank, header first, and the fix for a row with a wrong number of fields."""
    lines = read_lines(file, errors)
    if file.kind != ".tsv" or file.delimiter:
        return _csv_rows(file, lines, delimiter_of(file)), _CSV_CURE
    start = []  # blank lines, and the header
    for line in lines:
        start.append(line)
        if line.removesuffix("\r"):
            break
    lines = itertools.chain(start, lines)
    if start and _QUOTED_LINE.fullmatch(start[-1].removesuffix("\r")):
        return _csv_rows(file, lines, "\t"), _CSV_CURE
    return _plain_rows(lines), _PLAIN_CURE


def _plain_rows(lines: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if line := line.removesuffix("\r"):
            yield number, [_unquoted(field) for field in line.split("\t")]


def _unquoted(field: str) -> str:
    """Removes the quotes that `csv.writer` has added to a field, which it does only if the field contains quotes."""
    inner = field[1:-1]
    if '"' in inner and field[0] == field[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"')
    return field


def _csv_rows(file: DataFile, lines: Iterable[str], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # a global limit of the process; the default is 128 KiB
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield (
                number,
                UserError(
                    f"{file.path}, line {number}: the row that begins here cannot be read ({error}); "
                    "a field that holds quotes must be in double quotes, with its own quotes doubled."
                ),
            )
            continue
        if row:
            yield number, row


def _count(row: list[str]) -> str:
    return f"{len(row)} field{'s' if len(row) != 1 else ''}"
