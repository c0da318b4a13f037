"""Hugging Face datasets: from the Hub, from a folder of data files, or written by `save_to_disk`."""

import dataclasses
import glob
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jaxdp.data.reading.arrow import (
    BATCH_ROWS,
    check_columns,
    short_reason,
    table_records,
    top_columns,
)
from jaxdp.data.reading.files import unreadable
from jaxdp.data.reading.records import Columns, Part, Record, value_at
from jaxdp.data.reading.source_spec import SourceSpec
from jaxdp.errors import UserError

_CURE = "run datasets.load_dataset({path!r}).save_to_disk(FOLDER)"
"""Command that saves a dataset on a machine with network access."""

HUB_SECS = 10
"""Timeout in seconds of the request that checks if the Hub is reachable."""


def open_dataset(
    path: str, name: str | None, split: str | None, eval_split: str | None, columns: Columns, errors: str
) -> tuple[Part, Part | None]:
    """Opens the splits of a dataset, each as one part.

    Args:
        path: Folder that `save_to_disk` wrote (also a URL); else an argument of `load_dataset`: a folder of data files, or
            the name of a dataset on the Hub.
        name: Configuration of the dataset, if it has several.
        split: Split to train on; None: `train`, or a whole saved dataset without splits.
        eval_split: Split to evaluate on; None: the source has none.
        columns: Columns that both must have.
        errors: Handling of bytes that are not UTF-8: `strict` or `replace`.

    Raises:
        UserError: The dataset, configuration or split does not exist; a split is empty; a column is missing or is not text
            (or a label); the Hub cannot be reached. While reading, see `table_records` and `with_class_names`.
    """
    path = os.path.expanduser(path)
    if (split or "train") == eval_split:
        raise UserError(
            f"data.split and data.eval_split are both {eval_split}: what is evaluated on must not be "
            "trained on; name another split, or unset data.eval_split to evaluate on data.eval_fraction."
        )
    if _is_saved(path):
        saved = _load_saved(path)
        train = _saved_split(path, saved, split, "data.split")
        evaluation = None if eval_split is None else _saved_split(path, saved, eval_split, "data.eval_split")
    else:
        _check_path(path)
        train = _load(path, name, split or "train", "data.split")
        evaluation = None if eval_split is None else _load(path, name, eval_split, "data.eval_split")
    part = _part(train, path, split or "train", columns, errors)
    return part, None if eval_split is None else _part(evaluation, path, eval_split, columns, errors)


def open_splits(spec: SourceSpec, columns: Columns) -> tuple[list[Part], list[Part] | None]:
    """Opens `split` and `eval_split` of a dataset: (parts to train on, parts to evaluate on or None)."""
    if not spec.path:
        raise UserError("data.source=hf needs data.path: the name of a dataset on the Hub, or a folder.")
    train, evaluation = open_dataset(spec.path, spec.name, spec.split, spec.eval_split, columns, spec.errors)
    return [train], None if evaluation is None else [evaluation]


def open_evaluation_split(spec: SourceSpec, columns: Columns) -> list[Part]:
    """Opens `eval_split` of a dataset alone."""
    parts, _ = open_splits(dataclasses.replace(spec, split=spec.eval_split, eval_split=None), columns)
    return parts


def _part(dataset, path: str, split: str, columns: Columns, errors: str) -> Part:
    where = f"data.path={path}, split {split}"
    if not dataset.num_rows:
        raise UserError(f"{where} is empty: choose a split that has records.")
    check_columns(where, columns, dataset.features.arrow_schema)
    stamp = _stamp(dataset, path)
    names = class_names(dataset.features, columns)
    dataset = dataset.select_columns(top_columns(columns, dataset.features.arrow_schema)).with_format("arrow")

    def read() -> Iterator[Record]:
        records = table_records(dataset.iter(BATCH_ROWS), columns, errors, where, split)
        return (with_class_names(record, names) for record in records) if names else records

    return Part(split, dataset.data.nbytes, stamp, read)


def class_names(features: Any, columns: Columns) -> dict[str, list[str]]:
    """Returns the class names of each label column that has some; its records have class numbers.

    Args:
        features: `datasets.Features`; None for a stream that does not declare them.
        columns: Columns; `a.b` is the field `b` of the column `a`.
    """
    import datasets

    names = {}
    if features is None:
        return names
    for column in columns.label:
        feature = value_at(features, column)
        if isinstance(feature, list):  # one way to declare a list
            feature = feature[0]
        feature = getattr(feature, "feature", feature)
        if isinstance(feature, datasets.ClassLabel):
            names[column] = feature.names
    return names


def with_class_names(record: Record, names: Mapping[str, list[str]]) -> Record:
    """Replaces class numbers of a record by names; also in lists.

    Raises:
        UserError: A number is not that of a class: `datasets` writes -1 for a missing label.
    """
    named = {column: _named(record.fields[column], names[column], column, record.origin) for column in names}
    return dataclasses.replace(record, fields={**record.fields, **named})


def _named(value: Any, names: list[str], column: str, origin: str) -> Any:
    if isinstance(value, list):
        return [_named(each, names, column, origin) for each in value]
    if not 0 <= value < len(names):
        raise UserError(
            f"{origin}: column {column!r} is {value}, which is no label (they are 0 to {len(names) - 1}): choose splits "
            "that are labelled with data.split and data.eval_split, or leave the record out."
        )
    return names[value]


def _stamp(dataset, path: str) -> str:
    """Returns the fingerprint of `datasets`, which covers content and history, and the times of the files."""
    # Files of a URL are fresh copies, whose times mean nothing.
    files = () if "://" in path else dataset.cache_files
    return f"{dataset._fingerprint} {[os.stat(file['filename']).st_mtime_ns for file in files]}"


def _is_saved(path: str) -> bool:
    if "://" in path:
        return True
    return any(os.path.exists(os.path.join(path, name)) for name in ("state.json", "dataset_dict.json"))


def _load_saved(path: str) -> Any:
    """Loads a `Dataset`, or a `DatasetDict` of several splits."""
    import datasets.exceptions

    try:
        return datasets.load_from_disk(path)
    except IndexError as error:  # datasets 5.2 raises it for a dataset without rows and files
        raise UserError(
            f"data.path={path} is empty or has an empty split, which datasets cannot load: save it without."
        ) from error
    except (OSError, ValueError, KeyError, ImportError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"data.path={path} cannot be loaded as a folder that save_to_disk wrote "
            f"({short_reason(error)}): copy it again, or give another folder."
        ) from error


def _saved_split(path: str, saved: Any, split: str | None, key: str) -> Any:
    import datasets

    if isinstance(saved, datasets.DatasetDict):
        if (split or "train") not in saved:
            raise UserError(
                f"{key}={split or 'train'} is no split of data.path={path}: choose one of {', '.join(map(str, saved))}."
            )
        return saved[split or "train"]
    if split is not None and split != str(saved.split):
        raise UserError(
            f"{key}={split}, but data.path={path} holds one dataset without splits: unset {key}, or give "
            "a folder that DatasetDict.save_to_disk wrote."
        )
    return saved


def _check_path(path: str) -> None:
    """Checks that a folder exists or the Hub is reachable, since `load_dataset` retries for minutes.

    Raises:
        UserError: Neither is the case.
    """
    if os.path.isdir(path):
        check_folder(path)
        return
    if os.path.exists(path):
        raise UserError(
            f"data.path={path} is a file, data.source=hf expects a folder or the name of a dataset on "
            "the Hub: read it with data.source=text, jsonl, csv or parquet."
        )
    check_hub(path, _CURE)


def check_folder(path: str) -> None:
    """Raises UserError for a folder whose files `datasets` does not find, since it reads the name as a glob."""
    if glob.has_magic(path):
        raise UserError(
            f"data.path={path} is a folder with one of *?[ in its name, which datasets takes for a glob: rename it, or read its "
            "files by a glob with data.source=jsonl, csv or parquet."
        )


def check_hub(path: str, cure: str) -> None:
    """Checks that the Hub can be reached, since `datasets` would retry for half a minute.

    Args:
        path: Name of a dataset.
        cure: See `out_of_reach`.

    Raises:
        UserError: It cannot be reached, or the name is invalid.
    """
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path):
        raise unreadable(FileNotFoundError(2, "No such file or directory", path))
    import datasets.config
    import huggingface_hub

    if datasets.config.HF_HUB_OFFLINE:
        return  # `datasets` searches its cache, and reports a missing entry
    try:
        huggingface_hub.HfApi().dataset_info(path, timeout=HUB_SECS)
    except huggingface_hub.errors.HfHubHTTPError:
        pass  # the Hub answered, so `datasets` reports the reason
    except Exception as error:  # the class depends on the HTTP library of huggingface_hub
        raise out_of_reach(path, error, cure) from error


def _load(path: str, name: str | None, split: str, key: str) -> Any:
    import datasets.exceptions

    try:
        return datasets.load_dataset(path, name, split=split)
    except ConnectionError as error:
        raise out_of_reach(path, error, _CURE) from error
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        named = "" if name is None else f", data.name={name}"
        raise UserError(
            f"data.source=hf cannot load data.path={path}{named}, {key}={split} "
            f"({short_reason(error.__cause__ or error)}): correct these keys, or log in if it is private."
        ) from error


def out_of_reach(path: str, error: Exception, cure: str) -> UserError:
    """Returns the error for a Hub that cannot be reached.

    Args:
        path: Name of a dataset.
        error: Error of the request.
        cure: Command to run on a machine with network access, with {path} in it and FOLDER as its result.
    """
    import datasets.config

    if datasets.config.HF_HUB_OFFLINE:
        why, cached = "HF_HUB_OFFLINE is set and the cache has no such dataset", ""
    else:
        why, cached = short_reason(error), "; or set HF_HUB_OFFLINE=1 to use what the cache holds"
    return UserError(
        f"data.path={path} is no folder here, and the Hugging Face Hub cannot be reached ({why}): on a "
        f"machine with network {cure.format(path=path)}, copy FOLDER here and set data.path=FOLDER{cached}."
    )
