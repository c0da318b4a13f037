"""Reader of Arrow tables: Parquet files, and the tables of `datasets`."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jaxdp.data.reading.file_content import not_utf8, open_seekable
from jaxdp.data.reading.files import DataFile
from jaxdp.data.reading.records import Columns, Record, missing_column, wrong_column
from jaxdp.errors import UserError
from jaxdp.quoting import shortened

BATCH_ROWS = 256
"""Number of rows that are converted to Python objects at once."""


def read_parquet(file: DataFile, columns: Columns, errors: str) -> Iterator[Record]:
    """Yields one record per row; only the needed columns are read, batch by batch.

    Args:
        file: Parquet file; if it is compressed as a whole, it is decompressed to disk first.
        columns: Columns that the table must have; `a.b` is the field `b` of the column `a`.
        errors: See `jaxdp.data.reading.readers.read_text`.

    Raises:
        UserError: The file cannot be read or is not Parquet; a column is missing, or is not text (or a label); a row has no
            value; text is not UTF-8.
    """
    with _open_parquet(file) as table:
        check_columns(file.path, columns, table.schema_arrow)
        batches = table.iter_batches(BATCH_ROWS, columns=list(columns.names))
        yield from table_records(batches, columns, errors, file.path, file.name)


@contextlib.contextmanager
def _open_parquet(file: DataFile) -> Iterator[Any]:
    """Opens a `pyarrow.parquet.ParquetFile`; errors in the block that reads it become a UserError."""
    import pyarrow
    from pyarrow import parquet

    with open_seekable(file) as stream:
        try:
            # Reads ahead by the megabyte instead of a column of a whole row group.
            yield parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{file.path} is no Parquet file, or a damaged one ({short_reason(error)}): copy or download it again."
            ) from error


def read_all_columns(file: DataFile, columns: Sequence[str], errors: str) -> Iterator[dict[str, Any]]:
    """Yields the rows of a Parquet file with all of their columns.

    Args:
        file: As for `read_parquet`.
        columns: Columns that the table must have, of any type.
        errors: Handling of bytes in texts that are not UTF-8: `strict`, `replace` or `surrogateescape`.

    Raises:
        UserError: The file cannot be read, is not Parquet, or lacks a column or has it twice.
    """
    with _open_parquet(file) as table:
        names = table.schema_arrow.names
        for column in columns:
            check_unique(file.path, column, table.schema_arrow)
            if _kind(table.schema_arrow, column) is None:
                raise missing_column(file.path, column, _all_names(table.schema_arrow))
        for batch in table.iter_batches(BATCH_ROWS):
            values = [_decoded(column, _undecoded(column), errors) for column in batch.columns]
            for row in zip(*values, strict=True):
                yield dict(zip(names, row, strict=True))


def check_columns(where: str, columns: Columns, schema) -> None:
    """Checks names and types of columns.

    Raises:
        UserError: Names the first column that is wrong.
    """
    from pyarrow import types

    for column in columns.names:
        check_unique(where, column, schema)
        kind = _kind(schema, column)
        if kind is None:
            raise missing_column(where, column, _all_names(schema))
        kind = kind.value_type if types.is_dictionary(kind) else kind
        is_text = column in columns.text
        expected = _is_string(kind) or (not is_text and _is_label(kind))
        if not expected:
            raise wrong_column(where, column, is_text, f"of type {shortened(str(kind))}")


def check_unique(where: str, column: str, schema) -> None:
    """Raises UserError if a table has several columns of the name of a column, or of the nested one that it is in."""
    for name in {column, column.partition(".")[0]}:
        if schema.names.count(name) > 1:
            raise UserError(f"{where} has {schema.names.count(name)} columns named {name!r}: rename all but one.")


def top_columns(columns: Columns, schema) -> list[str]:
    """Returns the columns of the table that hold these: `translation` for `translation.en`."""
    return list(dict.fromkeys(name if name in schema.names else name.partition(".")[0] for name in columns.names))


def _kind(schema, column: str):
    """Returns the type of a column, or of a field of a nested one, `translation.en`; None if it does not exist."""
    from pyarrow import types

    if column in schema.names:
        return schema.field(column).type
    name, *fields = column.split(".")
    kind = schema.field(name).type if name in schema.names else None
    for field in fields:
        if kind is None or not types.is_struct(kind) or kind.get_field_index(field) < 0:
            return None
        kind = kind.field(field).type
    return kind


def _all_names(schema) -> list[str]:
    """Returns the names of all columns, and `column.field` of nested ones."""
    from pyarrow import types

    nested = {
        field.name: [f"{field.name}.{inner.name}" for inner in field.type]
        for field in schema
        if types.is_struct(field.type)
    }
    return [name for field in schema for name in nested.get(field.name, [field.name])]


def _pick(batch, column: str):
    """Returns a column of a batch, or a field of a nested one."""
    from pyarrow import compute

    if column in batch.schema.names:
        return batch.column(column)
    name, *fields = column.split(".")
    return compute.call_function("struct_field", [batch.column(name)], compute.StructFieldOptions(fields))


def _is_label(kind) -> bool:
    from pyarrow import types

    if _is_list(kind):
        return _is_string(kind.value_type) or types.is_integer(kind.value_type)
    return types.is_integer(kind) or types.is_boolean(kind) or types.is_floating(kind)


def _is_list(kind) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind)


def _is_string(kind) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def table_records(batches: Iterable, columns: Columns, errors: str, path: str, name: str) -> Iterator[Record]:
    """Yields the rows of batches or tables as records.

    Args:
        batches: Batches with `columns`, checked.
        columns: Columns to read.
        errors: See `jaxdp.data.reading.readers.read_text`.
        path: Path for messages.
        name: Name for origins.
    """
    number = 0
    for batch in batches:
        values = [
            _values(_pick(batch, column), column, column in columns.text, errors, path, number)
            for column in columns.names
        ]
        for row in zip(*values, strict=True):
            yield Record(dict(zip(columns.names, row, strict=True)), f"{name}, row {number}")
            number += 1


def _values(column, name: str, is_text: bool, errors: str, path: str, first_row: int) -> list[Any]:
    """Converts a column of a batch to Python values; neither a value nor an element of a list may be null."""
    values = _undecoded(column)
    for row, value in enumerate(values, first_row) if column.null_count or _is_list(column.type) else ():
        if value is None or (isinstance(value, list) and None in value):
            raise wrong_column(f"{path}, row {row}", name, is_text, "null" if value is None else "a list with null")
    try:
        return _decoded(column, values, errors)
    except UnicodeDecodeError as error:
        row = first_row + next(
            i for i, value in enumerate(values) if error.object in (value if isinstance(value, list) else [value])
        )
        of = " of the label" if _is_list(column.type) else " of the text"
        raise not_utf8(f"{path}, row {row}: column {name!r}", error.object[error.start], error.start, of) from error


def _undecoded(column) -> list[Any]:
    """Converts a column to Python values with strings as bytes, since neither Parquet nor Arrow checks that they are UTF-8."""
    import pyarrow

    kind = column.type.value_type if pyarrow.types.is_dictionary(column.type) else column.type
    if _is_string(kind):
        kind = pyarrow.large_binary()
    elif _is_list(kind) and _is_string(kind.value_type):
        kind = pyarrow.large_list(pyarrow.large_binary())
    return (column if kind == column.type else column.cast(kind)).to_pylist()


def _decoded(column, values: list[Any], errors: str) -> list[Any]:
    """Decodes the strings, or lists of strings, that `_undecoded` has left as bytes."""
    from pyarrow import types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if _is_string(kind):
        return [value if value is None else value.decode("utf-8", errors) for value in values]
    if _is_list(kind) and _is_string(kind.value_type):
        return [
            value if value is None else [each if each is None else each.decode("utf-8", errors) for each in value]
            for value in values
        ]
    return values


def short_reason(error: BaseException) -> str:
    """Returns the message of another library's error, on one line of a few hundred characters."""
    return " ".join(str(error).split()).rstrip(".:")[:300] or type(error).__name__
