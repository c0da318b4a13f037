"""`data.source=hf_stream`: a data set of Hugging Face, opened without downloading it."""

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
"""How a stream is brought from a machine with network."""

BUILDERS = {
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".json": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".parquet": ("parquet", {}),
    ".txt": ("text", {}),
}
"""What `datasets` reads files of this ending with, and its options."""


def open_stream(
    spec: SourceSpec, split: str = "train", *, seed: int = 0, shuffle: bool = False, shuffle_buffer: int = 0
) -> RecordStream:
    """A split as a stream of records; the first one is read, to see whether it can be.

    Args:
        spec: `path` is the name of a data set on the Hub; or a folder, of whose files
            `datasets` takes those of the most frequent kind; or files of one kind, by
            name, glob or URL: .jsonl, .csv, .tsv, .parquet, or .txt with a record a
            line. Compressed if `datasets` reads it as it comes: .gz, .xz; .zst with
            the package zstandard. `name`, `columns`, `label_columns` and `errors` are used too.
        split: of the data set or the folder; files have `train` only.
        seed: see `RecordStream`, as for the others.

    Raises:
        UserError: no such data, configuration or split; no way to the Hub; no record,
            or one that cannot be read; keys that contradict each other.
    """
    if not spec.path:
        raise UserError(
            "data.source=hf_stream needs data.path: the name of a data set on the Hub, a folder, a file "
            "or a glob."
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
    if dataset.column_names is not None:  # some formats tell only in their records
        held = {}  # column -> that of the data set which holds it: `a` for `a.b`
        for column in columns.names:
            held[column] = column if column in dataset.column_names else column.partition(".")[0]
            if held[column] not in dataset.column_names:
                raise missing_column(where, column, dataset.column_names)
        dataset = dataset.select_columns(list(dict.fromkeys(held.values())))
    if next(RecordStream(dataset, columns, files, where).records(), None) is None:
        raise UserError(f"{where} is empty: choose data that has records.")
    return RecordStream(
        dataset, columns, files, where, seed=seed, shuffle=shuffle, shuffle_buffer=shuffle_buffer
    )


def _load(path: str, name: str | None, split: str) -> tuple[Any, list[str]]:
    """The split, and the file of each shard where it is one."""
    import datasets  # takes a second, which other sources need not wait for

    kind, options = _builder(path, name)
    try:
        builder = datasets.load_dataset_builder(kind, **options)
        _take_at_its_word(builder.config)
        dataset = builder.as_streaming_dataset(split)
    except ConnectionError as error:
        raise out_of_reach(path, error, _CURE) from error
    except Exception as error:  # nothing of ours runs here: it is a key, the data, or the way to it
        named = "" if name is None else f", data.name={name}"
        cure = (
            "pip install zstandard"
            if "zstd not supported" in str(error)
            else "correct these keys, or log in if it is private"
        )
        raise UserError(
            f"data.source=hf_stream cannot open data.path={path}{named}, split {split} "
            f"({short_reason(error)}): {cure}."
        ) from error
    files = list((builder.config.data_files or {}).get(split, ()))
    return dataset, files if len(files) == dataset.num_shards else []


def _take_at_its_word(config: Any) -> None:
    """Sets what a format's reader has in options: text must come as it stands in the file.

    By default one number in a column of texts turns the texts around it (10 MB of
    .jsonl) into JSON strings, quotes and all; and a text `NA` of a .csv is none.
    """
    for option, value in (("on_mixed_types", None), ("na_filter", False)):
        if hasattr(config, option):
            setattr(config, option, value)


def _builder(path: str, name: str | None) -> tuple[str, dict[str, Any]]:
    """First argument and options of `load_dataset_builder`."""
    if os.path.isdir(path):
        if any(os.path.exists(os.path.join(path, state)) for state in ("state.json", "dataset_dict.json")):
            raise UserError(
                f"data.path={path} was written by save_to_disk, which data.source=hf reads: set "
                "data.source=hf."
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
            f"data.name={name} is for a data set on the Hub or a folder, but data.path={path} names "
            "files: unset it."
        )
    files = find_files(path, tuple(BUILDERS))
    kinds = sorted({file.kind for file in files})
    if len(kinds) > 1 or kinds[0] not in BUILDERS:
        raise UserError(
            f"data.path={path} has files that end in {', '.join(map(repr, kinds))}: expected one of "
            f"{', '.join(BUILDERS)}; name files of one kind by a glob."
        )
    kind, options = BUILDERS[kinds[0]]
    # `datasets` takes every name for a glob.
    paths = [file.path if "://" in file.path else glob.escape(file.path) for file in files]
    return kind, {"data_files": paths, **options}
