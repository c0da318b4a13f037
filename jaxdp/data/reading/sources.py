"""Where data comes from: each value of `data.source` that reads text, by name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxdp.data.reading.arrow import read_parquet
from jaxdp.data.reading.files import DataFile, find_files
from jaxdp.data.reading.hub import open_data_set
from jaxdp.data.reading.readers import read_csv, read_jsonl, read_text
from jaxdp.data.reading.records import Columns, Part, Record, missing_column
from jaxdp.data.reading.stdlib import open_stdlib
from jaxdp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """One source, as `data.*` or an entry of `data.mixture` describes it.

    Attributes:
        source: stdlib | text | jsonl | csv | parquet | hf.
        path: a file, a folder, a glob or a URL (see `files.find_files`); for hf see
            `hub.open_data_set`; not used by stdlib.
        eval_path: files that are the evaluation split; not for stdlib and hf.
        name: hf: the configuration of a data set.
        split: hf: to train on; None: train.
        eval_split: hf: to evaluate on; None: held out of `split`.
        columns: that must be there and hold text; of text: `text`; of stdlib see
            `stdlib.open_stdlib`.
        label_columns: that must be there and hold labels, see `jaxdp.data.reading.records.Columns`.
        errors: strict | replace: what to do about bytes that are not UTF-8.
    """

    source: str
    path: str | None = None
    eval_path: str | None = None
    name: str | None = None
    split: str | None = None
    eval_split: str | None = None
    columns: tuple[str, ...] = ("text",)
    label_columns: tuple[str, ...] = ()
    errors: str = "strict"


Parts = list[Part]


@dataclass(frozen=True)
class _Format:
    """Files that are read alike.

    Attributes:
        endings: of the files that are taken from a folder; empty: all.
        read: file, columns, errors -> records.
    """

    endings: tuple[str, ...]
    read: Callable[[DataFile, Columns, str], Iterator[Record]]


FORMATS = {
    "text": _Format((), read_text),
    "jsonl": _Format((".jsonl", ".json", ".ndjson"), read_jsonl),
    "csv": _Format((".csv", ".tsv"), read_csv),
    "parquet": _Format((".parquet",), read_parquet),
}


def open_source(spec: SourceSpec) -> tuple[Parts, Parts | None]:
    """The parts of a source, in an order that depends on names only.

    Returns:
        The training parts, and the evaluation parts where the source itself has them,
        else None. Both have at least one record; the first one has been read.

    Raises:
        UserError: an unknown source; nothing there, nothing readable, no record; a
            column that is missing or holds something else. What is wrong further on
            is raised where it is read.
    """
    if spec.source not in SOURCES:
        raise UserError(
            f"data.source={spec.source!r} is unknown: expected one of {', '.join(SOURCES)}, tokens, hf_stream."
        )
    if spec.errors not in ("strict", "replace"):
        raise UserError(f"data.errors={spec.errors!r} is unknown: expected strict or replace.")
    _check_keys(spec)
    train, evaluation = SOURCES[spec.source](spec, Columns(spec.columns, spec.label_columns))
    for parts, where in ((train, spec.path or spec.source), (evaluation, spec.eval_path)):
        if parts is not None and not any(_has_records(part) for part in parts):
            raise UserError(f"data.source={spec.source}: {where} has no record: give files that have some.")
    return train, evaluation


def _check_keys(spec: SourceSpec) -> None:
    """Checks that no key is set which the source does not look at.

    Raises:
        UserError: names the key, and where it belongs.
    """
    unused = ("eval_path",) if spec.source == "hf" else ("name", "split", "eval_split")
    for key in ("eval_path", *unused) if spec.source == "stdlib" else unused:
        if getattr(spec, key) is not None:
            cure = "data.eval_split names a split" if spec.source == "hf" else "data.eval_path names files"
            raise UserError(
                f"data.{key}={getattr(spec, key)} means nothing with data.source={spec.source}: unset it"
                + (f" ({cure} to evaluate on)." if spec.source != "stdlib" else ".")
            )


def _has_records(part: Part) -> bool:
    records = part.read()
    try:
        return next(records, None) is not None
    finally:
        records.close()


def _open_stdlib(spec: SourceSpec, columns: Columns) -> tuple[Parts, None]:
    return open_stdlib(columns, spec.errors), None


def _open_files(spec: SourceSpec, columns: Columns) -> tuple[Parts, Parts | None]:
    if not spec.path:
        raise UserError(f"data.source={spec.source} needs data.path: a file, a folder or a glob.")
    if spec.source == "text":
        _only_text(columns)
    endings = FORMATS[spec.source].endings
    train = find_files(spec.path, endings)
    evaluation = None if spec.eval_path is None else find_files(spec.eval_path, endings, "data.eval_path")
    both = {file.path for file in train} & {file.path for file in evaluation or ()}
    if both:
        raise UserError(
            f"{min(both)} is both in data.path and in data.eval_path: what is evaluated on must not be "
            "trained on; choose the files of each by a folder or a glob."
        )
    return (
        [_part(file, spec, columns) for file in train],
        None if evaluation is None else [_part(file, spec, columns) for file in evaluation],
    )


def _part(file: DataFile, spec: SourceSpec, columns: Columns) -> Part:
    read = FORMATS[spec.source].read
    return Part(file.name, file.num_bytes or 0, file.stamp, lambda: read(file, columns, spec.errors))


def _only_text(columns: Columns) -> None:
    for column in columns.names:
        if column != "text":
            raise missing_column("data.source=text", column, ["text"])


def _open_hf(spec: SourceSpec, columns: Columns) -> tuple[Parts, Parts | None]:
    if not spec.path:
        raise UserError("data.source=hf needs data.path: the name of a data set on the Hub, or a folder.")
    train, evaluation = open_data_set(
        spec.path, spec.name, spec.split, spec.eval_split, columns, spec.errors
    )
    return [train], None if evaluation is None else [evaluation]


SOURCES: dict[str, Callable[[SourceSpec, Columns], tuple[Parts, Parts | None]]] = {
    "stdlib": _open_stdlib,
    **dict.fromkeys(FORMATS, _open_files),
    "hf": _open_hf,
}
