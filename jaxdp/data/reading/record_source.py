"""Records of a registered source: dicts from Python, cached by a fingerprint."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxdp.arguments import shown
from jaxdp.data.reading.records import Columns, Part, Record, select_fields
from jaxdp.data.reading.source_spec import SourceSpec
from jaxdp.errors import UserError

Rows = Iterable[Mapping[str, Any]] | Callable[[], Iterable[Mapping[str, Any]]]
"""Records as dicts, or a function that returns them; read several times, from the first record each time."""


@dataclass(frozen=True)
class SourceRecords:
    """Records of a source.

    Attributes:
        fingerprint: String that changes when the records do, e.g. a version or a hash. Prepared data of the same
            fingerprint is used again without reading the records.
        train: Records to train on; also to evaluate on where `evaluation` is None.
        evaluation: Records to evaluate on; None: `data.eval_fraction` of `train`.
    """

    fingerprint: str
    train: Rows
    evaluation: Rows | None = None


ReadRecords = Callable[[SourceSpec], SourceRecords]
"""Reader of a registered source. It runs in the main process of every host; workers receive records."""


def open_records(reader: ReadRecords, spec: SourceSpec, columns: Columns) -> tuple[list[Part], list[Part] | None]:
    """Opens the records that a reader returns: (parts to train on, parts to evaluate on or None).

    Raises:
        UserError: The reader returns something else. While reading: a record is not a dict, lacks a column or has
            something else in it; names the record.
    """
    found = reader(spec)
    if not isinstance(found, SourceRecords):
        raise UserError(
            f"data.source={spec.source}: its reader must return SourceRecords, found {type(found).__name__}."
        )
    if not isinstance(found.fingerprint, str) or not found.fingerprint:
        raise UserError(
            f"data.source={spec.source}: its fingerprint must be a non-empty string that changes with the records, "
            f"found {found.fingerprint!r}."
        )
    train = _part(spec.source, found.fingerprint, found.train, columns, spec.errors)
    if found.evaluation is None:
        for key in ("eval_path", "eval_split"):
            if value := getattr(spec, key):
                raise UserError(
                    f"data.source={spec.source}: data.{key}={value} is set, but its reader returns no "
                    f"SourceRecords.evaluation: read spec.{key} there, or unset data.{key}."
                )
        return [train], None
    return [train], [_part(f"{spec.source} (evaluation)", found.fingerprint, found.evaluation, columns, spec.errors)]


def _part(name: str, fingerprint: str, rows: Rows, columns: Columns, errors: str) -> Part:
    if isinstance(rows, Iterator):
        raise UserError(
            f"data.source={name}: its records are an iterator, which can be read once: give a list or a function that "
            "returns a new iterator."
        )
    return Part(name, 0, fingerprint, lambda: _records(name, rows, columns, errors))


def _records(name: str, rows: Rows, columns: Columns, errors: str) -> Iterator[Record]:
    found = rows() if callable(rows) else rows
    if not isinstance(found, Iterable) or isinstance(found, Mapping | str | bytes):
        raise UserError(
            f"data.source={name}: its records must be an iterable of dicts, or a function that returns one, "
            f"found {shown(found)}."
        )
    for number, fields in enumerate(found):
        where = f"{name}, record {number}"
        if not isinstance(fields, Mapping):
            raise UserError(f"{where} is of type {type(fields).__name__}, expected a dict from column to value.")
        yield Record(select_fields(fields, columns, where, errors), where)
