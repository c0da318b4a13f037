"""Cache keys of prepared data: scans, tokenizers, labels, tokens, packing plans and reference texts.

A key covers everything that the content of an entry depends on. Code of jaxdp enters as format numbers, so that
an edited comment does not prepare a corpus again. Code of a user's task enters as its source, without comments
and docstrings.
"""

import hashlib
import inspect
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol

from jaxdp.cache_home import cache_home
from jaxdp.data.cleaning.cleaner import Cleaner
from jaxdp.data.dataset import DatasetSpec
from jaxdp.data.labels import LABELS_FORMAT
from jaxdp.data.preparing.cache import entry_path
from jaxdp.data.preparing.examples import EXAMPLES_FORMAT
from jaxdp.data.preparing.scan import SCAN_FORMAT, Scan
from jaxdp.data.preparing.selection import SELECTION_FORMAT, Selection
from jaxdp.data.sequences.packing import PLAN_FORMAT
from jaxdp.data.tokenizers.base import ENCODING_FORMAT
from jaxdp.data.tokenizers.make import VOCABULARY_FORMAT
from jaxdp.data.vocabularies import Vocabularies
from jaxdp.errors import UserError
from jaxdp.paths import local_path
from jaxdp.run_config import DataConfig
from jaxdp.source_code import normalized_source

Scanned = Sequence[tuple[Scan, Mapping[str, str]]]
"""For each source its scan and a mapping from field of the task to column."""


def scan_entry(
    spec: DatasetSpec, source: Mapping[str, Any], evaluation_is_separate: bool, selection: Selection | None
) -> Path:
    """Returns the entry for the scan of the source that `source` describes."""
    key = {
        **source,
        "format": SCAN_FORMAT,
        "cleaning": cleaning_identity(spec.data),
        "eval_fraction": None if evaluation_is_separate else spec.data.eval_fraction,
    }
    if selection and not evaluation_is_separate:
        key["selection"] = [SELECTION_FORMAT, selection.kind, selection.seed, selection.key]
    return entry_path(_cache_dir(spec.data), "scan", key)


def tokenizer_entry(
    spec: DatasetSpec, name: str, fields: Sequence[str], scanned: Scanned, file_digest: str | None
) -> Path:
    """Returns the entry of the tokenizer `name`, trained on these fields of the sources or read from a file."""
    key = {
        "format": [VOCABULARY_FORMAT, SCAN_FORMAT],
        "name": name,
        "special_tokens": spec.task.special_tokens,
        "file": file_digest,
        "data": [[scan.fingerprint, scan.split_key, [columns[field] for field in fields]] for scan, columns in scanned],
        "cleaning": cleaning_identity(spec.data),
    }
    if name == "char" and spec.task.prompt_end:
        key["characters"] = spec.task.prompt_end
    return entry_path(_cache_dir(spec.data), "tokenizer", key)


def labels_entry(spec: DatasetSpec, scanned: Scanned) -> Path:
    """Returns the entry for the labels of the training split."""
    key = {
        "format": [LABELS_FORMAT, SCAN_FORMAT],
        "data": [[scan.fingerprint, scan.split_key, dict(columns)] for scan, columns in scanned],
        "cleaning": cleaning_identity(spec.data),
        "kind": spec.task.label_kind,
        "separator": spec.task.label_separator,
    }
    return entry_path(_cache_dir(spec.data), "labels", key)


def tokens_entry(spec: DatasetSpec, scan: Scan, columns: Mapping[str, str], vocabularies: Vocabularies) -> Path:
    """Returns the entry for the tokens of one source."""
    tokenizers = (vocabularies.tokenizer, vocabularies.target_tokenizer)
    key = {
        "format": [EXAMPLES_FORMAT, SCAN_FORMAT, ENCODING_FORMAT],
        "prepare": prepare_version(spec.task.kind),
        "data": scan.fingerprint,
        "split": scan.split_key,
        "columns": dict(columns),
        "cleaning": cleaning_identity(spec.data),
        "tokenizers": [digest(tokenizer.to_json()) for tokenizer in tokenizers if tokenizer],
        "task": spec.task.name,
        "prepared_with": dict(spec.task.bind(Vocabularies(labels=vocabularies.labels)).prepared_with),
    }
    return entry_path(_cache_dir(spec.data), "tokens", key)


def plan_entry(spec: DatasetSpec, tokens: Path, split: str, shape: Mapping[str, Any]) -> Path:
    """Returns the entry for the plan that packs the documents of a split into sequences of this shape."""
    key = {"format": PLAN_FORMAT, "tokens": tokens.name, "split": split, **shape}
    return entry_path(_cache_dir(spec.data), "plan", key)


def texts_entry(spec: DatasetSpec, tokens: Path, field: str, numbers: Sequence[int]) -> Path:
    """Returns the entry for the cleaned texts of one field of these validation examples."""
    key = {"tokens": tokens.name, "field": field, "numbers": list(numbers)}
    return entry_path(_cache_dir(spec.data), "texts", key)


def digest(value: str | Sequence[str]) -> str:
    """Returns the SHA-256 of strings, including their lengths."""
    found = hashlib.sha256()
    for part in [value] if isinstance(value, str) else value:
        content = part.encode("utf-8", "surrogatepass")
        found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()


def _cache_dir(data: DataConfig) -> Path:
    given = data.cache_dir
    return Path(os.path.abspath(local_path(given, "data.cache_dir"))) if given else cache_home() / "data"


def cleaning_identity(data: DataConfig) -> tuple[str, ...]:
    """Returns the steps of `data.cleaning` with the content of each word list instead of its name; see `Cleaner`."""
    return Cleaner(data.cleaning, ()).identity


def prepare_version(task: type) -> list[Any]:
    """Returns the format number of a task, and digests of the source of its classes outside jaxdp.

    Raises:
        UserError: A class outside jaxdp has no source file.
    """
    user_classes = [
        kind
        for kind in task.__mro__
        if kind not in (object, Protocol, Generic) and kind.__module__.split(".")[0] != "jaxdp"
    ]
    return [task.prepare_format, *map(_source_of, user_classes)]


def _source_of(task: type) -> str:
    try:
        return digest(normalized_source(textwrap.dedent(inspect.getsource(task))))
    except (OSError, TypeError) as error:
        raise UserError(
            f"the task {task.__name__} has no source file, which the cache key of prepared data needs: "
            "define it in a .py file of its own, not in a configuration file or a prompt (docs/extending.md)."
        ) from error
