"""Where data comes from: each value of `data.source` that reads text, by name."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxdp.data.reading import parallel_text
from jaxdp.data.reading.arrow import read_parquet
from jaxdp.data.reading.encodings import check_encoding
from jaxdp.data.reading.files import DataFile, find_files
from jaxdp.data.reading.hub import open_data_set
from jaxdp.data.reading.readers import read_jsonl, read_text
from jaxdp.data.reading.records import Columns, Part, Record, missing_column
from jaxdp.data.reading.stdlib import open_stdlib
from jaxdp.data.reading.tables import parsed_delimiter, read_csv
from jaxdp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """One source, as `data.*` or an entry of `data.mixture` describes it.

    Attributes:
        source: stdlib | text | jsonl | csv | parquet | hf.
        path: a file, a folder, a glob or a URL (see `files.find_files`); for hf see
            `hub.open_data_set`; not used by stdlib.
        eval_path: files that are the evaluation split; not for stdlib and hf.
        target_path: text with columns `source` and `target`: the files of the targets;
            `path` has the sources (see `parallel_text`).
        eval_target_path: likewise beside `eval_path`.
        name: hf: the configuration of a data set.
        split: hf: to train on; None: train.
        eval_split: hf: to evaluate on; None: held out of `split`.
        columns: that must be there and hold text; of text: `text`, or `source` and
            `target`; of stdlib see `stdlib.open_stdlib`.
        label_columns: that must be there and hold labels, see `jaxdp.data.reading.records.Columns`.
        errors: strict | replace: what to do about bytes that are not of the encoding.
        encoding: text, jsonl, csv: of the files; None: UTF-8.
        delimiter: csv: between fields; None: a comma, in `.tsv` files a tab.
    """

    source: str
    path: str | None = None
    eval_path: str | None = None
    target_path: str | None = None
    eval_target_path: str | None = None
    name: str | None = None
    split: str | None = None
    eval_split: str | None = None
    columns: tuple[str, ...] = ("text",)
    label_columns: tuple[str, ...] = ()
    errors: str = "strict"
    encoding: str | None = None
    delimiter: str | None = None


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
    check_keys(spec)
    train, evaluation = SOURCES[spec.source](spec, Columns(spec.columns, spec.label_columns))
    for parts, where in ((train, spec.path or spec.source), (evaluation, spec.eval_path)):
        if parts is not None:
            _with_records(parts, spec.source, where)
    return train, evaluation


def open_evaluation(spec: SourceSpec) -> Parts:
    """Opens the evaluation parts of a source alone: `eval_path` (of pairs with `eval_target_path`), or of hf `eval_split`.

    Args:
        spec: Of text, jsonl, csv, parquet or hf; its `path` matters to hf only.

    Raises:
        UserError: See `open_source`.
    """
    columns = Columns(spec.columns, spec.label_columns)
    if spec.source == "hf":
        parts, _ = _open_hf(dataclasses.replace(spec, split=spec.eval_split, eval_split=None), columns)
        return _with_records(parts, spec.source, spec.path)
    if spec.source not in FORMATS:
        raise UserError(f"data.source={spec.source} reads no files to evaluate on: set data.source to one of {', '.join(FORMATS)}.")
    key, path = "data.eval_path", spec.eval_path
    if spec.source == "text" and set(columns.names) == set(parallel_text.COLUMNS):
        if not path or not spec.eval_target_path:
            raise UserError("one side of pairs is missing: set data.eval_path and data.eval_target_path, or read both from a table.")
        sides = ((path, key), (spec.eval_target_path, "data.eval_target_path"))
        parts = parallel_text.pair_files(
            *(_find(spec, side, (), name, keep_empty=True) for side, name in sides), spec.errors
        )
        return _with_records(parts, spec.source, path)
    if spec.source == "text":
        _only_text(columns)
    files = _find(spec, path, FORMATS[spec.source].endings, key)
    return _with_records([_part(file, spec, columns) for file in files], spec.source, path)


def _with_records(parts: Parts, source: str, where: str | None) -> Parts:
    """The parts, of which at least one must have a record."""
    if not any(_has_records(part) for part in parts):
        raise UserError(f"data.source={source}: {where} has no record: give files that have some.")
    return parts


_TARGETS = ("target_path", "eval_target_path")

_LOOKED_AT = {
    "stdlib": (),
    "parquet": ("eval_path",),
    "jsonl": ("eval_path", "encoding"),
    "csv": ("eval_path", "encoding", "delimiter"),
    "text": ("eval_path", "encoding", *_TARGETS),
    "tokens": (),
    **dict.fromkeys(("hf", "hf_stream"), ("name", "split", "eval_split")),
}
"""Source -> which of the optional keys mean something to it."""


def check_keys(spec: SourceSpec) -> None:
    """Checks that no key is set which the source does not look at.

    Args:
        spec: also of tokens and hf_stream, which others open.

    Raises:
        UserError: names the key, and where it belongs.
    """
    looked_at = _LOOKED_AT[spec.source]
    for key in (*_TARGETS, "eval_path", "name", "split", "eval_split", "encoding", "delimiter"):
        if key not in looked_at and getattr(spec, key) is not None:
            raise UserError(
                f"data.{key}={getattr(spec, key)} means nothing with data.source={spec.source}: unset it"
                f"{_instead(key, looked_at)}."
            )
    if spec.encoding is not None:
        check_encoding(spec.encoding)
    parsed_delimiter(spec.delimiter)


def _instead(key: str, looked_at: tuple[str, ...]) -> str:
    """What serves the purpose of a key that means nothing."""
    if key in _TARGETS:
        return " (data.source=text reads pairs from two files; others from data.source_column and data.target_column)"
    if key in ("encoding", "delimiter"):
        return ""
    for other, what in (("eval_split", "names a split"), ("eval_path", "names files")):
        if other in looked_at:
            return f" (data.{other} {what} to evaluate on)"
    return ""


def _has_records(part: Part) -> bool:
    records = part.read()
    try:
        return next(records, None) is not None
    finally:
        records.close()


def _open_stdlib(spec: SourceSpec, columns: Columns) -> tuple[Parts, None]:
    return open_stdlib(columns, spec.errors), None


def _open_files(spec: SourceSpec, columns: Columns) -> tuple[Parts, Parts | None]:
    endings = FORMATS[spec.source].endings
    train, evaluation = _split_files(spec, endings, "path", "eval_path")
    return (
        [_part(file, spec, columns) for file in train],
        None if evaluation is None else [_part(file, spec, columns) for file in evaluation],
    )


def _open_text(spec: SourceSpec, columns: Columns) -> tuple[Parts, Parts | None]:
    if set(columns.names) == set(parallel_text.COLUMNS):
        return _open_pairs(spec)
    for key in _TARGETS:
        if getattr(spec, key) is not None:
            raise UserError(
                f"data.{key}={getattr(spec, key)} has the targets of pairs, but this task reads none: unset it, or "
                "set task=seq2seq (or causal_lm.completion_only=True)."
            )
    _only_text(columns)
    return _open_files(spec, columns)


def _open_pairs(spec: SourceSpec) -> tuple[Parts, Parts | None]:
    _check_both_sides(spec)
    train, evaluation = _split_files(spec, (), "path", "eval_path", keep_empty=True)
    targets, eval_targets = _split_files(spec, (), *_TARGETS, keep_empty=True)
    return (
        parallel_text.pair_files(train, targets, spec.errors),
        None if evaluation is None else parallel_text.pair_files(evaluation, eval_targets, spec.errors),
    )


def _check_both_sides(spec: SourceSpec) -> None:
    """Checks that where one side of pairs is given the other is too."""
    if spec.target_path is None:
        raise UserError(
            "data.source=text needs data.target_path for a task that reads pairs: the files whose line N is the target "
            "of line N of data.path; or read both from one table with data.source=csv, jsonl or parquet."
        )
    for given, missing in (("eval_path", "eval_target_path"), ("eval_target_path", "eval_path")):
        if getattr(spec, given) is not None and getattr(spec, missing) is None:
            raise UserError(
                f"data.{given}={getattr(spec, given)} is one side of pairs: set data.{missing} to the other."
            )


def _split_files(
    spec: SourceSpec, endings: tuple[str, ...], train_key: str, eval_key: str, *, keep_empty: bool = False
) -> tuple[list[DataFile], list[DataFile] | None]:
    """The files to train on and those to evaluate on, which must not be the same."""
    train_path, eval_path = getattr(spec, train_key), getattr(spec, eval_key)
    if not train_path:
        raise UserError(f"data.source={spec.source} needs data.{train_key}: a file, a folder or a glob.")
    train = _find(spec, train_path, endings, f"data.{train_key}", keep_empty=keep_empty)
    if eval_path is None:
        return train, None
    evaluation = _find(spec, eval_path, endings, f"data.{eval_key}", keep_empty=keep_empty)
    both = {file.path for file in train} & {file.path for file in evaluation}
    if both:
        raise UserError(
            f"{min(both)} is both in data.{train_key} and in data.{eval_key}: what is evaluated on must not be "
            "trained on; choose the files of each by a folder or a glob."
        )
    return train, evaluation


def _find(
    spec: SourceSpec, path: str, endings: tuple[str, ...], key: str, *, keep_empty: bool = False
) -> list[DataFile]:
    """The files of a path, see `find_files`, with what the source says about reading them."""
    files = find_files(path, endings, key, keep_empty=keep_empty)
    reading = {"encoding": spec.encoding, "delimiter": parsed_delimiter(spec.delimiter)}
    return [dataclasses.replace(file, **reading) for file in files]


def _part(file: DataFile, spec: SourceSpec, columns: Columns) -> Part:
    read = FORMATS[spec.source].read
    return Part(file.name, file.num_bytes or 0, file.stamp, lambda: read(file, columns, spec.errors), file.remarks)


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
    "text": _open_text,
    "hf": _open_hf,
}
