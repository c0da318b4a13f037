"""Tables of comma-separated or tab-separated values as records."""

import csv
import sys
from collections.abc import Iterator

from jaxdp.data.reading.file_content import read_lines
from jaxdp.data.reading.files import DataFile
from jaxdp.data.reading.records import Columns, Record, missing_column
from jaxdp.errors import UserError


def read_csv(file: DataFile, columns: Columns, errors: str) -> Iterator[Record]:
    """One record a row of a table whose first row names the columns.

    Fields are separated by commas, in a `.tsv` file by tabs; a field in double
    quotes may hold those, doubled quotes and ends of lines. Blank lines are left out.

    Args:
        file: in UTF-8.
        columns: what the header must name; other columns are left out.
        errors: see `readers.read_text`.

    Raises:
        UserError: not readable, not UTF-8, wrong quotes, no such column, a row with
            more or fewer fields than the header. Names the line where the row begins.
    """
    csv.field_size_limit(sys.maxsize)  # of the whole process; the default refuses 128 KiB
    lines = (line + "\n" for line in read_lines(file, errors))
    reader = csv.reader(lines, delimiter="\t" if file.kind == ".tsv" else ",", strict=True)
    rows = _rows(file, reader)
    _, header = next(rows, (0, []))
    for column in columns.names if header else ():
        if header.count(column) != 1:
            if column in header:
                raise UserError(
                    f"{file.path}: its header names column {column!r} more than once; rename one."
                )
            raise missing_column(f"{file.path}: its header", column, header)
    places = {column: header.index(column) for column in columns.names if header}
    for number, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{file.path}, line {number}: the row has {_count(row)}, the header {_count(header)}; "
                "put fields that hold separators or ends of lines in double quotes."
            )
        yield Record({column: row[i] for column, i in places.items()}, f"{file.name}, line {number}")


def _rows(file: DataFile, reader) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, fields) of every row that is not blank."""
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{file.path}, line {number}: the row that begins here cannot be read ({error}); "
                "a field that holds quotes must be in double quotes, with its own quotes doubled."
            ) from error
        if row:
            yield number, row


def _count(row: list[str]) -> str:
    return f"{len(row)} field{'s' if len(row) != 1 else ''}"
