"""Records and parts: the common form of every data source."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxdp.errors import UserError
from jaxdp.quoting import quoted_names


@dataclass(frozen=True)
class Record:
    """One example of a source, or a piece of a document that is too long for one.

    Attributes:
        fields: Value of each requested column.
        origin: Location for messages, relative to `data.path`, so that the same data has the same origins in any place:
            `a.txt`; `b/c.jsonl, line 12` (from 1, as in editors); `d.parquet, row 7` (from 0, as in `datasets` and
            `pandas`).
        continues: True if the next record of the part continues the same document.
    """

    fields: Mapping[str, Any]
    origin: str
    continues: bool = False


@dataclass(frozen=True)
class Part:
    """One file, or one split of a dataset: the unit of a split by files.

    Attributes:
        name: Path relative to `data.path`, with `/`.
        num_bytes: Size on disk, for progress only; 0 if unknown.
        stamp: String that changes when the content does; prepared data of the same stamp is used again without reading the
            part.
        read: Function that yields all records in order, from the first at each call; memory does not grow with the size of
            the part.
        remarks: Sentences about files next to it that were left out.
    """

    name: str
    num_bytes: int
    stamp: str
    read: Callable[[], Iterator[Record]]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Columns:
    """Columns that every record must have.

    Attributes:
        text: Columns of text.
        label: Columns of labels: a string, a number, a boolean, or a list of strings or integers; the task decides which
            of them it accepts.
    """

    text: tuple[str, ...]
    label: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns, each once."""
        return tuple(dict.fromkeys(self.text + self.label))


MISSING = object()
"""Result of `value_at` for a missing field."""


def value_at(fields: Mapping[str, Any], column: str) -> Any:
    """Returns the value of a column: the field of that name, else the nested one that its dots lead to.

    Args:
        fields: Fields of a record, by name.
        column: Name of a field, or `a.b` for the field `b` of the object `a`. A field that is literally named
            `a.b` wins.

    Returns:
        The value, or MISSING.
    """
    if column in fields:
        return fields[column]
    found: Any = fields
    for name in column.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return MISSING
        found = found[name]
    return found


def is_label(value: Any) -> bool:
    """Returns True for a value that a label column may hold."""
    if isinstance(value, list):
        return all(isinstance(each, str | int) for each in value)
    return isinstance(value, str | int | float)  # a bool is an int


def select_fields(fields: Mapping[str, Any], columns: Columns, where: str, errors: str = "strict") -> dict[str, Any]:
    """Selects and checks the columns of a record.

    Args:
        fields: Fields of the record, by name.
        columns: Columns that it must have, see `value_at`.
        where: File and line, or file and row, for messages.
        errors: `strict` or `replace`: handling of half a surrogate pair in text.

    Raises:
        UserError: A column is missing, or is not text or a label; text that UTF-8 cannot encode.
    """
    selected = {}
    for column in columns.names:
        found = value_at(fields, column)
        if found is MISSING:
            raise missing_column(where, column, fields)
        is_text = column in columns.text
        if not (isinstance(found, str) if is_text else is_label(found)):
            raise wrong_column(where, column, is_text, kind_of(found))
        selected[column] = encodable(found, column, where, errors)
    return selected


_KINDS = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def kind_of(value: Any) -> str:
    """Returns the type of a value as messages name it: `a number`."""
    return _KINDS.get(type(value), f"of type {type(value).__name__}")


def encodable(value: Any, column: str, where: str, errors: str) -> Any:
    """Returns a value with text that UTF-8 can encode; raises UserError for half a surrogate pair if `errors` is strict."""
    if isinstance(value, list):
        return [encodable(each, column, where, errors) for each in value]
    if not isinstance(value, str) or value.isascii():
        return value
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        if errors == "strict":
            raise UserError(
                f"{where}: column {column!r} has half a surrogate pair (\\u{ord(value[error.start]):04x}) at "
                f"character {error.start}, which is no text; set data.errors=replace to read it as U+FFFD."
            ) from error
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value


def missing_column(where: str, column: str, present: Iterable[str], hint: str = "") -> UserError:
    """Returns the error for a missing column.

    Args:
        where: File and line, or file and row, or file.
        column: Name of the column.
        present: Names of the columns that exist.
        hint: Another possible cause, a sentence after a blank.
    """
    return UserError(
        f"{where} has no column {column!r}, only {quoted_names(list(present)) or 'none at all'}: "
        f"name one of these in data.text_column (or whichever data.*_column asks for it).{hint}"
    )


def wrong_column(where: str, column: str, is_text: bool, found: str) -> UserError:
    """Returns the error for a column with a value of the wrong type.

    Args:
        where: File and line, or file and row, or file.
        column: Name of the column.
        is_text: True if it should be text, False for a label.
        found: Type of the value, with an article: `a number`.
    """
    expected = "text" if is_text else "a label (a string, a number, a boolean, or a list of strings or integers)"
    return UserError(
        f"{where}: column {column!r} is {found}, expected {expected}; name another column in "
        "data.text_column (or whichever data.*_column asks for it), or fix the data."
    )
