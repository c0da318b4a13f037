"""Streamed Hugging Face dataset (`data.source=hf_stream`), opened without a download."""

import glob
import os
from typing import Any

from jaxdp.data.reading.arrow import short_reason
from jaxdp.data.reading.files import find_files, unreadable
from jaxdp.data.reading.hub import check_folder, check_hub, out_of_reach
from jaxdp.data.reading.record_stream import RecordStream
from jaxdp.data.reading.records import Columns, missing_column
from jaxdp.data.reading.source_spec import SourceSpec
from jaxdp.data.reading.sources import check_keys
from jaxdp.errors import UserError

_CURE = "run `hf download {path} --repo-type dataset --local-dir FOLDER`"
"""Command that downloads a dataset on a machine with network access."""

BUILDERS = {
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".parquet": ("parquet", {}),
    ".txt": ("text", {}),
}
"""Builder of `datasets` for each ending, and its options."""


def open_stream(
    spec: SourceSpec, split: str = "train", *, seed: int = 0, shuffle: bool = False, shuffle_buffer: int = 0
) -> RecordStream:
    """Opens a split as a stream of records; the first record is read as a check.

    Args:
        spec: `path` is the name of a dataset on the Hub; or a folder, whose most frequent kind of files `datasets` reads;
            or files of one kind, by name, glob or URL: .jsonl, .csv, .tsv, .parquet, or .txt with a record per line.
            Compressed files need support of `datasets`: .gz, .xz; .zst with the package zstandard. `name`, `columns`,
            `label_columns` and `errors` are used too.
        split: Split of the dataset or the folder; files have `train` only.
        seed: See `RecordStream`.
        shuffle: See `RecordStream`.
        shuffle_buffer: See `RecordStream`.

    Raises:
        UserError: The data, configuration or split does not exist; the Hub cannot be reached; there is no record, or it
            cannot be read; keys contradict each other.
    """
    if not spec.path:
        raise UserError(
            "data.source=hf_stream needs data.path: the name of a dataset on the Hub, a folder, a file or a glob."
        )
    if spec.errors != "strict":
        raise UserError(
            f"data.errors={spec.errors!r} is not for data.source=hf_stream: set it to strict, or read "
            "the data with another source."
        )
    if shuffle_buffer < 0 or (shuffle_buffer and not shuffle):
        raise UserError(
            f"data.shuffle_buffer={shuffle_buffer} with data.shuffle={shuffle}: expected 0, or with "
            "data.shuffle=True a number of records."
        )
    check_keys(spec)
    columns = Columns(spec.columns, spec.label_columns)
    where = f"data.path={spec.path}, split {split}"
    dataset, files = _load(os.path.expanduser(spec.path), spec.name, split)
    if dataset.column_names is not None:  # some formats have columns in their records only
        held = {}  # column -> column of the dataset that holds it: `a` for `a.b`
        for column in columns.names:
            held[column] = column if column in dataset.column_names else column.partition(".")[0]
            if held[column] not in dataset.column_names:
                raise missing_column(where, column, dataset.column_names)
        dataset = dataset.select_columns(list(dict.fromkeys(held.values())))
    if next(RecordStream(dataset, columns, files, where).records(), None) is None:
        raise UserError(f"{where} is empty: choose data that has records.")
    return RecordStream(dataset, columns, files, where, seed=seed, shuffle=shuffle, shuffle_buffer=shuffle_buffer)


def _load(path: str, name: str | None, split: str) -> tuple[Any, list[str]]:
    """Returns the split, and the file of each shard if a shard is one file."""
    import datasets  # takes a second, which other sources do not need

    kind, options = _builder(path, name)
    try:
        builder = datasets.load_dataset_builder(kind, **options)
        _read_text_unchanged(builder.config)
        dataset = builder.as_streaming_dataset(split)
    except ConnectionError as error:
        raise out_of_reach(path, error, _CURE) from error
    except Exception as error:  # only `datasets` runs here, so the cause is a key, the data or the connection
        named = "" if name is None else f", data.name={name}"
        cure = (
            "pip install zstandard"
            if "zstd not supported" in str(error)
            else "correct these keys, or log in if it is private"
        )
        raise UserError(
            f"data.source=hf_stream cannot open data.path={path}{named}, split {split} ({short_reason(error)}): {cure}."
        ) from error
    assert isinstance(dataset, datasets.IterableDataset), "one split, not a dict of them"
    files = list((builder.config.data_files or {}).get(split, ()))
    return dataset, files if len(files) == dataset.num_shards else []


def _read_text_unchanged(config: Any) -> None:
    """Sets options of a format's reader so that text is read unchanged.

    By default one number in a column of texts turns the texts around it (10 MB of .jsonl) into JSON strings with quotes, and
    a text `NA` of a .csv file is missing.
    """
    for option, value in (("on_mixed_types", None), ("na_filter", False)):
        if hasattr(config, option):
            setattr(config, option, value)


def _builder(path: str, name: str | None) -> tuple[str, dict[str, Any]]:
    """Returns the first argument and the options of `load_dataset_builder`."""
    if os.path.isdir(path):
        if any(os.path.exists(os.path.join(path, state)) for state in ("state.json", "dataset_dict.json")):
            raise UserError(
                f"data.path={path} was written by save_to_disk, which data.source=hf reads: set data.source=hf."
            )
        check_folder(path)
        return path, {"name": name}
    if "://" not in path and not os.path.exists(path) and not glob.has_magic(path):
        if os.path.splitext(path)[1] in BUILDERS:
            raise unreadable(FileNotFoundError(2, "No such file or directory", path))
        check_hub(path, _CURE)
        return path, {"name": name}
    if name is not None:
        raise UserError(
            f"data.name={name} is for a dataset on the Hub or a folder, but data.path={path} names files: unset it."
        )
    files = find_files(path, tuple(BUILDERS))
    kinds = sorted({file.kind for file in files})
    if len(kinds) > 1 or kinds[0] not in BUILDERS:
        raise UserError(
            f"data.path={path} has files that end in {', '.join(map(repr, kinds))}: expected one of "
            f"{', '.join(BUILDERS)}; name files of one kind by a glob."
        )
    kind, options = BUILDERS[kinds[0]]
    # `datasets` reads every name as a glob.
    paths = [file.path if "://" in file.path else glob.escape(file.path) for file in files]
    return kind, {"data_files": paths, **options}
