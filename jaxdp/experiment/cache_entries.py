"""Where in the cache the work on a source lies, done or not: each kind by all that its content depends on."""

import hashlib
import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import jaxdp.data
import jaxdp.tasks.labels
from jaxdp.data.cleaning.cleaner import Cleaner
from jaxdp.data.preparing.cache import default_cache_dir, entry_path
from jaxdp.data.preparing.scan import Scan
from jaxdp.errors import UserError
from jaxdp.experiment.parts import make_task
from jaxdp.experiment.vocabularies import Vocabularies

Scanned = Sequence[tuple[Scan, Mapping[str, str]]]
"""Of each source its scan, and name that the task knows -> column."""


def scan_entry(config: ConfigDict, source: Mapping[str, Any], evaluation_is_separate: bool) -> Path:
    """The scan of a source that is described by `source`."""
    key = source | {
        "code": _code_version(),
        "cleaning": _cleaning(config),
        "eval_fraction": None if evaluation_is_separate else config.data.eval_fraction,
    }
    return entry_path(_cache_dir(config), "scan", key)


def tokenizer_entry(config: ConfigDict, name: str, fields: Sequence[str], scanned: Scanned) -> Path:
    """The tokenizer `name` made from these fields of the sources."""
    key = {
        "code": _code_version(),
        "name": name,
        "special_tokens": make_task(config).special_tokens,
        "file": _file_digest(name),
        "data": [[scan.fingerprint, scan.split, [columns[field] for field in fields]] for scan, columns in scanned],
        "cleaning": _cleaning(config),
    }
    return entry_path(_cache_dir(config), "tokenizer", key)


def labels_entry(config: ConfigDict, scanned: Scanned) -> Path:
    """The labels of the sources' training parts."""
    options = config[config.task]
    key = {
        "code": _code_version(),
        "data": [[scan.fingerprint, scan.split, dict(columns)] for scan, columns in scanned],
        "cleaning": _cleaning(config),
        "kind": options.kind,
        "separator": options.label_separator,
    }
    return entry_path(_cache_dir(config), "labels", key)


def tokens_entry(
    config: ConfigDict, scan: Scan, columns: Mapping[str, str], vocabularies: Vocabularies
) -> Path:
    """The tokens of one source."""
    task = make_task(config, Vocabularies(labels=vocabularies.labels))
    tokenizers = (vocabularies.tokenizer, vocabularies.target_tokenizer)
    key = {
        "code": _code_version(type(task)),
        "data": scan.fingerprint,
        "split": scan.split,
        "columns": dict(columns),
        "cleaning": _cleaning(config),
        "tokenizers": [digest(tokenizer.to_json()) for tokenizer in tokenizers if tokenizer],
        "task": config.task,
        "prepared_with": dict(task.prepared_with),
    }
    return entry_path(_cache_dir(config), "tokens", key)


def plan_entry(config: ConfigDict, tokens: Path, split: str, shape: Mapping[str, Any]) -> Path:
    """How the documents of some tokens are packed into rows of this shape."""
    key = {"code": _code_version(), "tokens": tokens.name, "split": split, **shape}
    return entry_path(_cache_dir(config), "plan", key)


def texts_entry(config: ConfigDict, tokens: Path, field: str, numbers: Sequence[int]) -> Path:
    """The cleaned texts of some held-out records: a field of those that became these examples of some tokens."""
    key = {"tokens": tokens.name, "field": field, "numbers": list(numbers)}
    return entry_path(_cache_dir(config), "texts", key)


def digest(value: str | Sequence[str]) -> str:
    """SHA-256 of texts, their lengths included."""
    found = hashlib.sha256()
    for part in [value] if isinstance(value, str) else value:
        content = part.encode("utf-8", "surrogatepass")
        found.update(len(content).to_bytes(8, "little") + content)
    return found.hexdigest()


def _cache_dir(config: ConfigDict) -> Path:
    given = config.data.cache_dir
    return Path(os.path.abspath(os.path.expanduser(given))) if given else default_cache_dir()


def _cleaning(config: ConfigDict) -> Any:
    return Cleaner(config.data.cleaning, ()).identity


def _code_version(*classes: type) -> str:
    """Digest of the source that the prepared data depends on: the data floor, labels, and the task's class."""
    files = sorted(Path(jaxdp.data.__file__).parent.rglob("*.py"))
    code = [inspect.getsource(jaxdp.tasks.labels), *map(_source_of, classes)]
    return digest([file.read_text() for file in files] + code)


def _source_of(task: type) -> str:
    try:
        return inspect.getsource(task)
    except (OSError, TypeError) as error:
        raise UserError(
            f"the task {task.__name__} was not defined in a module, so prepared data cannot be known by its code: "
            "define it in a .py file of its own, not in a configuration file or a prompt (README, Add a task)."
        ) from error


def _file_digest(name: str) -> str | None:
    path = Path(name).expanduser()
    return digest(path.read_text()) if name.endswith(".json") and path.is_file() else None
