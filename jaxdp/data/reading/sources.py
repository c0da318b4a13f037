"""Registry of data sources: the built-in values of `data.source`, and `register_source` for sources of one's own."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial

from jaxdp.arguments import check_registration, unregistered
from jaxdp.data.demo_corpora.stdlib import open_stdlib
from jaxdp.data.reading.file_sources import open_evaluation_files, open_files, open_text
from jaxdp.data.reading.hub import open_evaluation_split, open_splits
from jaxdp.data.reading.python_records import open_python
from jaxdp.data.reading.record_source import ReadRecords, open_records
from jaxdp.data.reading.records import Columns, Part
from jaxdp.data.reading.source_spec import (
    OPTIONAL_KEYS,
    TARGET_PATHS,
    SourceSpec,
    check_optional_keys,
)
from jaxdp.errors import UserError
from jaxdp.nearest import closest

Splits = tuple[list[Part], list[Part] | None]
"""Parts to train on, and parts to evaluate on where the source has a validation split of its own, else None."""


@dataclass(frozen=True, kw_only=True)
class RegisteredSource:
    """Registry entry of a source.

    Attributes:
        read: (spec, columns) -> splits; None: the source is not opened as parts, but by `sequences.tokens_file` or
            `stream_source`.
        open_evaluation: (spec, columns) -> parts to evaluate on, without anything to train on; None: unsupported.
        keys: Optional keys of `SourceSpec` that the source reads.
        has_columns: True if `data.*_column` name the columns of its records; False if they are fixed.
    """

    read: Callable[[SourceSpec, Columns], Splits] | None = None
    open_evaluation: Callable[[SourceSpec, Columns], list[Part]] | None = None
    keys: tuple[str, ...] = ()
    has_columns: bool = True


SOURCES = {
    "stdlib": RegisteredSource(read=open_stdlib, has_columns=False),
    "text": RegisteredSource(
        read=open_text,
        open_evaluation=open_evaluation_files,
        keys=("eval_path", "encoding", *TARGET_PATHS),
        has_columns=False,
    ),
    "jsonl": RegisteredSource(read=open_files, open_evaluation=open_evaluation_files, keys=("eval_path", "encoding")),
    "csv": RegisteredSource(
        read=open_files, open_evaluation=open_evaluation_files, keys=("eval_path", "encoding", "delimiter")
    ),
    "parquet": RegisteredSource(read=open_files, open_evaluation=open_evaluation_files, keys=("eval_path",)),
    "hf": RegisteredSource(
        read=open_splits, open_evaluation=open_evaluation_split, keys=("name", "split", "eval_split")
    ),
    "tokens": RegisteredSource(),
    "hf_stream": RegisteredSource(keys=("name", "split", "eval_split")),
    "python": RegisteredSource(read=open_python, keys=("name",)),
}
"""Sources by name: a new built-in source is one file and one line here."""

_BUILT_IN = tuple(SOURCES)


def register_source(name: str, reader: ReadRecords) -> None:
    """Makes `data.source = name` read the records of `reader`; a later registration of the name replaces it.

    Args:
        name: Name of the source.
        reader: Function from the keys of the source to its records, see `record_source.SourceRecords`.

    Raises:
        UserError: The name is not a string or that of a built-in source, or the reader cannot be called with a
            `SourceSpec`.
    """
    check_registration("source", name, reader, "a function from a SourceSpec to SourceRecords", ["spec"], _BUILT_IN)
    SOURCES[name] = RegisteredSource(
        read=partial(open_records, reader), open_evaluation=partial(_own_evaluation, reader), keys=OPTIONAL_KEYS
    )


def _own_evaluation(reader: ReadRecords, spec: SourceSpec, columns: Columns) -> list[Part]:
    _, evaluation = open_records(reader, spec, columns)
    if evaluation is None:
        raise UserError(
            f"data.source={spec.source} has no records to evaluate on: return some in SourceRecords.evaluation."
        )
    return evaluation


def registered_source(name: str) -> RegisteredSource:
    """Returns the registry entry of a source.

    Raises:
        UserError: The name is unknown; lists the registered ones, and the nearest.
    """
    if name not in SOURCES:
        match = closest(name, SOURCES) if isinstance(name, str) else None
        hint = f"; did you mean {match!r}?" if match else f". {unregistered('source')}"
        raise UserError(f"data.source={name!r} is unknown: expected one of {', '.join(SOURCES)}{hint}")
    return SOURCES[name]


def open_source(spec: SourceSpec) -> Splits:
    """Opens the parts of a source, in an order that depends on names only.

    Returns:
        The parts to train on, and the parts to evaluate on where the source itself has them, else None. Both have at
        least one record; the first record has been read.

    Raises:
        UserError: The source is unknown; nothing is there, or it cannot be read or has no record; a column is missing
            or holds something else. Errors further on are raised while reading.
    """
    source = registered_source(spec.source)
    if source.read is None:
        raise UserError(
            f"data.source={spec.source} has no records to open: set data.source to one of {', '.join(_openable())}."
        )
    if spec.errors not in ("strict", "replace"):
        raise UserError(f"data.errors={spec.errors!r} is unknown: expected strict or replace.")
    check_keys(spec)
    train, evaluation = source.read(spec, Columns(spec.columns, spec.label_columns))
    for parts, where in ((train, spec.path or spec.source), (evaluation, spec.eval_path)):
        if parts is not None:
            _check_records(parts, spec.source, where)
    return train, evaluation


def open_evaluation(spec: SourceSpec) -> list[Part]:
    """Opens the parts to evaluate on alone: `eval_path` (for pairs with `eval_target_path`), for hf `eval_split`.

    Args:
        spec: Description of the source; its `path` matters to hf only.

    Raises:
        UserError: See `open_source`.
    """
    source = registered_source(spec.source)
    if source.open_evaluation is None:
        names = [name for name in SOURCES if SOURCES[name].open_evaluation]
        raise UserError(
            f"data.source={spec.source} reads no files to evaluate on: set data.source to one of {', '.join(names)}."
        )
    parts = source.open_evaluation(spec, Columns(spec.columns, spec.label_columns))
    _check_records(parts, spec.source, spec.eval_path or spec.path)
    return parts


def check_keys(spec: SourceSpec) -> None:
    """Raises UserError if an optional key is set that the source does not read, see `check_optional_keys`."""
    check_optional_keys(spec, registered_source(spec.source).keys)


def _openable() -> list[str]:
    return [name for name, source in SOURCES.items() if source.read]


def _check_records(parts: list[Part], source: str, where: str | None) -> None:
    """Raises UserError if no part has a record."""
    if not any(_has_records(part) for part in parts):
        raise UserError(f"data.source={source}: {where} has no record: expected at least one.")


def _has_records(part: Part) -> bool:
    records = part.read()
    try:
        return next(records, None) is not None
    finally:
        if isinstance(records, Generator):
            records.close()
