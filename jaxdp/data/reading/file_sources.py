"""File sources: text, jsonl, csv and parquet, from a path to parts."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jaxdp.data.reading import parallel_text
from jaxdp.data.reading.arrow import read_parquet
from jaxdp.data.reading.files import DataFile, find_files
from jaxdp.data.reading.readers import read_jsonl, read_text
from jaxdp.data.reading.records import Columns, Part, Record, missing_column
from jaxdp.data.reading.source_spec import TARGET_PATHS, SourceSpec
from jaxdp.data.reading.tables import parsed_delimiter, read_csv
from jaxdp.errors import UserError


@dataclass(frozen=True)
class FileFormat:
    """A file format.

    Attributes:
        endings: Endings of the files that are taken from a folder; empty: all files.
        read: Reader, (file, columns, errors) -> records.
    """

    endings: tuple[str, ...]
    read: Callable[[DataFile, Columns, str], Iterator[Record]]


FORMATS = {
    "text": FileFormat((), read_text),
    "jsonl": FileFormat((".jsonl", ".json", ".ndjson"), read_jsonl),
    "csv": FileFormat((".csv", ".tsv"), read_csv),
    "parquet": FileFormat((".parquet",), read_parquet),
}


def open_files(spec: SourceSpec, columns: Columns) -> tuple[list[Part], list[Part] | None]:
    """Opens the files of jsonl, csv or parquet: (parts to train on, parts to evaluate on or None)."""
    endings = FORMATS[spec.source].endings
    train, evaluation = _split_files(spec, endings, "path", "eval_path")
    return (
        [_part(file, spec, columns) for file in train],
        None if evaluation is None else [_part(file, spec, columns) for file in evaluation],
    )


def open_text(spec: SourceSpec, columns: Columns) -> tuple[list[Part], list[Part] | None]:
    """Opens text files, or pairs of them for columns `source` and `target`: see `open_files`."""
    if set(columns.names) == set(parallel_text.COLUMNS):
        return _open_pairs(spec)
    for key in TARGET_PATHS:
        if getattr(spec, key) is not None:
            raise UserError(
                f"data.{key}={getattr(spec, key)} has the targets of pairs, but this task reads none: unset it, or "
                "set task=seq2seq (or causal_lm.completion_only=True)."
            )
    _only_text(columns)
    return open_files(spec, columns)


def _open_pairs(spec: SourceSpec) -> tuple[list[Part], list[Part] | None]:
    _check_both_sides(spec)
    train, evaluation = _split_files(spec, (), "path", "eval_path", keep_empty=True)
    targets, eval_targets = _split_files(spec, (), *TARGET_PATHS, keep_empty=True)
    pairs = parallel_text.pair_files(train, targets, spec.errors)
    if evaluation is None or eval_targets is None:  # both are, see _check_both_sides
        return pairs, None
    return pairs, parallel_text.pair_files(evaluation, eval_targets, spec.errors)


def _check_both_sides(spec: SourceSpec) -> None:
    """Raises UserError if one side of pairs is given without the other."""
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
    """Finds the files to train on and those to evaluate on; raises UserError if a file is in both."""
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
    """Finds the files of a path, see `find_files`, and adds the encoding and delimiter of the source."""
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


def open_evaluation_files(spec: SourceSpec, columns: Columns) -> list[Part]:
    """Opens `eval_path` alone (for pairs with `eval_target_path`)."""
    key, path = "data.eval_path", spec.eval_path
    if spec.source == "text" and set(columns.names) == set(parallel_text.COLUMNS):
        if not path or not spec.eval_target_path:
            raise UserError(
                "one side of pairs is missing: set data.eval_path and data.eval_target_path, or read both from a table."
            )
        sources = _find(spec, path, (), key, keep_empty=True)
        targets = _find(spec, spec.eval_target_path, (), "data.eval_target_path", keep_empty=True)
        return parallel_text.pair_files(sources, targets, spec.errors)
    if spec.source == "text":
        _only_text(columns)
    if not path:
        raise UserError(f"data.source={spec.source} needs {key}: a file, a folder or a glob.")
    return [_part(file, spec, columns) for file in _find(spec, path, FORMATS[spec.source].endings, key)]
