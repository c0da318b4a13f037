"""Description of a data source: keys of `config.data` or of an entry of `data.mixture`."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxdp.data.reading.encodings import check_encoding
from jaxdp.data.reading.tables import parsed_delimiter
from jaxdp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """One source, as `data.*` or an entry of `data.mixture` describes it.

    Attributes:
        source: Name of the source, e.g. `text`, see `sources.SOURCES`.
        path: File, folder, glob or URL, see `files.find_files`; for hf see `hub.open_dataset`; unused by stdlib.
        eval_path: Files of the validation split; not for stdlib and hf.
        target_path: text with columns `source` and `target`: files of the targets; `path` has the sources, see
            `parallel_text`.
        eval_target_path: Files of the targets of `eval_path`.
        name: hf: configuration of a dataset; python: fingerprint of the records.
        split: hf: split to train on; None: train.
        eval_split: hf: split to evaluate on; None: a part of `split`.
        columns: Columns that every record must have as text. text has the column `text`, or `source` and `target`;
            for stdlib see `jaxdp.data.demo_corpora.stdlib`.
        label_columns: Columns that every record must have as labels, see `records.Columns`.
        errors: strict | replace: handling of bytes that are not of the encoding.
        encoding: text, jsonl, csv: text encoding of the files; None: UTF-8.
        delimiter: csv: character between fields; None: a comma, in `.tsv` files a tab.
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


TARGET_PATHS = ("target_path", "eval_target_path")

OPTIONAL_KEYS = (*TARGET_PATHS, "eval_path", "name", "split", "eval_split", "encoding", "delimiter")
"""Keys that only some sources read."""


def check_optional_keys(spec: SourceSpec, supported: Sequence[str]) -> None:
    """Checks that every optional key that is set is one that the source reads, and has a valid value.

    Args:
        spec: Description of the source.
        supported: Those of OPTIONAL_KEYS that the source reads.

    Raises:
        UserError: Names the key, and the key that serves its purpose.
    """
    for key in OPTIONAL_KEYS:
        if key not in supported and getattr(spec, key) is not None:
            raise UserError(
                f"data.{key}={getattr(spec, key)} means nothing with data.source={spec.source}: unset it"
                f"{_alternative(key, supported)}."
            )
    if spec.encoding is not None:
        check_encoding(spec.encoding)
    parsed_delimiter(spec.delimiter)


def _alternative(key: str, supported: Sequence[str]) -> str:
    """Returns the end of a message that names the key that serves the purpose of an unsupported one."""
    if key in TARGET_PATHS:
        return " (data.source=text reads pairs from two files; others from data.source_column and data.target_column)"
    if key in ("encoding", "delimiter"):
        return ""
    for other, what in (("eval_split", "names a split"), ("eval_path", "names files")):
        if other in supported:
            return f" (data.{other} {what} to evaluate on)"
    return ""
