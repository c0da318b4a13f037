"""JSON files of a run: reading without blocking, within bounds of size and nesting."""

import errno
import json
import math
import os
import stat
from collections.abc import Mapping
from io import BufferedReader
from typing import Any

from jaxdp.errors import UserError

MAX_BYTES = 2**28
"""Largest file that is read as a whole. Large tokenizer.json files have about 40 MB."""

MAX_DEPTH = 64
"""Deepest nesting of lists and objects. A config.json has 4 levels, a tokenizer.json about 8; Python's own limit
is that of recursive functions, which whatever walks the values would meet next."""

_TYPE_NAMES = {dict: "a JSON object", list: "a JSON list"}

_KINDS = (
    (stat.S_ISDIR, "is a directory"), (stat.S_ISFIFO, "is a named pipe"), (stat.S_ISSOCK, "is a socket"), (stat.S_ISCHR, "is a device"), (stat.S_ISBLK, "is a device"),
)  # fmt: skip


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Opens a regular file for reading.

    A named pipe would block until it is written to, and a device may never end.

    Raises:
        OSError: The file is missing, not readable or not a regular file; IsADirectoryError for a directory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a directory", os.fspath(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, f"{_kind_of(mode)}, expected a regular file", os.fspath(path))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def why_no_file(path: str | os.PathLike[str]) -> str:
    """States why a path leads to no regular file: "is missing", "is a directory", "is a named pipe"; "" if it leads to one."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        return (
            ("is a link to nothing" if os.path.islink(path) else "is missing")
            if is_missing
            else f"cannot be read ({error.strerror})"
        )
    return "" if stat.S_ISREG(mode) else _kind_of(mode)


def _kind_of(mode: int) -> str:
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "is no regular file")


def read_regular(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """Reads the whole content of a regular file.

    Raises:
        OSError: See `open_regular`; or the file is larger than `max_bytes` (EFBIG).
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(max_bytes + 1) if size <= max_bytes else b""
    if size > max_bytes or len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"has more than {max_bytes:,} bytes", os.fspath(path))
    return content


def parse_json(content: bytes | str) -> Any:
    """Parses JSON of bounded nesting depth.

    Raises:
        ValueError: The content is not UTF-8, not JSON, or nested more than `MAX_DEPTH` levels.
    """
    text = content.decode("utf-8") if isinstance(content, bytes) else content
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from None
    level, depth = [value], 1
    while level := [inner for outer in level for inner in _inner(outer)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    return value


def read_json(path: str | os.PathLike[str], expected: str, kind: type = dict, max_bytes: int = MAX_BYTES) -> Any:
    """Reads a JSON file.

    Args:
        path: Path of the file.
        expected: Expected content and fix, for the message, e.g. "the labels.json of a run; restore it from a copy".
        kind: Type of the value, dict or list.
        max_bytes: Largest size.

    Raises:
        UserError: The file cannot be read, is not a regular file, is too large, not UTF-8, not JSON, nested too deeply or of another type.
    """
    try:
        value = parse_json(read_regular(path, max_bytes))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); expected {expected}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({_reason(error)}); expected {expected}.") from error
    if not isinstance(value, kind):
        raise UserError(f"{path} holds {_found(value)}, not {_TYPE_NAMES[kind]}; expected {expected}.")
    return value


def nullify_non_finite(value: Any) -> Any:
    """Returns a JSON value with None in place of infinities and NaN, for which JSON has no numbers.

    Args:
        value: Number, string, or mappings, lists and tuples of such.
    """
    if isinstance(value, Mapping):
        return {name: nullify_non_finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [nullify_non_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [inner for inner in value.values() if isinstance(inner, dict | list)]
    return [inner for inner in value if isinstance(inner, dict | list)] if isinstance(value, list) else []


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return str(error)


def _found(value: Any) -> str:
    return _TYPE_NAMES.get(type(value)) or f"the value {json.dumps(value)[:40]}"
