"""Source files of the user's tasks, hooks, optimizers and data sources, for the comparison between processes."""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxdp.arguments import REGISTERED
from jaxdp.source_code import normalized_source
from jaxdp.user_code import is_users


def user_sources(given: Sequence[Any] = ()) -> dict[str, str]:
    """Hashes the code of each file of the user that defines a part of the run, and of those that it imports.

    Args:
        given: Hooks, and functions that make them, of this run; the registered parts are known.

    Returns:
        {"source of own_task.py": 12 digits}; comments and docstrings do not count.
    """
    by_name: dict[str, list[str]] = {}
    for file in sorted(set(_files([*REGISTERED.values(), *given]))):
        digest = hashlib.sha256(normalized_source(Path(file).read_bytes()).encode()).hexdigest()
        by_name.setdefault(Path(file).name, []).append(digest[:12])
    return {f"source of {name}": " ".join(sorted(digests)) for name, digests in by_name.items()}


def _files(parts: Sequence[Any]) -> Iterator[str]:
    """Yields the files that define parts of the run, and those of the user's modules that these import."""
    yield from filter(_is_source, map(_file_of, parts))
    waiting, seen = list(map(_module_of, parts)), set()
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None) or ""
        if module is None or name in seen or not _is_source(file):
            continue
        seen.add(name)
        yield file
        waiting += [_module_of(value) for value in list(vars(module).values())]


def _file_of(part: Any) -> str:
    """Returns the file that defines a function or class, also one of a configuration file, which is no module."""
    kind = part if isinstance(part, type) else type(part)
    functions = (part, *vars(kind).values())
    codes = (getattr(function, "__code__", None) for function in functions)
    return next((code.co_filename for code in codes if code), "")


def _module_of(value: Any) -> str:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return name if isinstance(name, str) else ""


def _is_source(file: str) -> bool:
    return file.endswith(".py") and is_users(file) and Path(file).is_file()
