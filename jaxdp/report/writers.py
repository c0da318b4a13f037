"""Metrics file of a run: writing, reading, and removal of the lines that a resume repeats.

Only process 0 writes. A line of metrics.jsonl is
one JSON object with `step` (updates completed), `time` (Unix seconds) and the
values; numbers that are not finite are null. Lines are ordered by step, and a line
counts only when its newline is on disk.
"""

import itertools
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from jaxdp.arguments import shown
from jaxdp.atomic_files import atomic_replacement
from jaxdp.errors import UserError
from jaxdp.json_files import nullify_non_finite, open_regular, parse_json, why_no_file

Value = float | int | str

_MAX_LINE_BYTES = 2**24
"""Maximum length of a line in bytes; lines of jaxdp have less than a kilobyte."""

_BLOCK_BYTES = 2**16
"""Number of bytes read at once while searching the last newline."""


def plain_values(values: Mapping[str, Any]) -> dict[str, Value]:
    """Returns metrics by full name as strings and Python numbers.

    Raises:
        TypeError: `values` is no mapping, or a value is neither a string nor a single number.
        ValueError: A name is not "group/name".
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"metrics must be a dict from full name to number, found {shown(values)}")
    plain = {}
    for name, value in values.items():
        if not isinstance(name, str) or not all(name.partition("/")):
            raise ValueError(f"the metric {name!r} must have a name of the form 'group/name', such as 'train/loss'")
        try:
            plain[name] = value if isinstance(value, str | int | float) else float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"the metric {name!r} must be a number or a string, found {shown(value)}") from error
    return plain


class MetricsWriter(Protocol):
    """Interface of a destination of metrics."""

    def write(self, step: int, values: Mapping[str, Value], /) -> None:
        """Records `values` by name as measured after `step` updates."""

    def close(self) -> None:
        """Flushes everything that was written; the last call."""


class MetricsFile:
    """Writer that appends to a metrics.jsonl; each line is in the file when `write` returns.

    Args:
        path: File, created if missing. An incomplete last line, left by a crash, is
            removed first.
    """

    def __init__(self, path: Path):
        self._path = path
        path.touch()
        os.truncate(path, _end_of_last_line(path))
        # Unbuffered, so that a line is written by one system call.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Appends one line.

        Raises:
            UserError: The line is not, or only partly, in the file; the next start removes the part.
        """
        numbers = {name: _json_value(value) for name, value in values.items()}
        text = json.dumps({"step": int(step), "time": time.time(), **numbers}, allow_nan=False)
        line = text.encode() + b"\n"
        why = "no space left"
        try:
            num_written = self._file.write(line)  # on a full disk it may write only a part, without an error
        except OSError as error:
            num_written, why = 0, error.strerror
        if num_written < len(line):
            raise UserError(
                f"{self._path} cannot be written ({why}); make room or fix the directory and run the same command again."
            )

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a metrics.jsonl, without an incomplete last line.

    Raises:
        UserError: The file is missing, or a line is not a JSON object with a step.
    """
    return list(iterate_metrics(path))


def check_metrics_file(path: Path) -> None:
    """Raises UserError unless there is a regular file."""
    if why := why_no_file(path):
        what = f"There is no metrics file {path}" if why == "is missing" else f"{path} {why}"
        raise UserError(f"{what}; expected the metrics.jsonl of a run's workdir.")


def iterate_metrics(path: Path, name: str = "") -> Iterator[dict[str, Any]]:
    """Reads a metrics.jsonl line by line, in constant memory.

    Args:
        path: The file; an incomplete last line is left out.
        name: Full name of a metric: lines without it are skipped unread; empty: every line is read.

    Raises:
        UserError: The file is missing, or a line is not a JSON object with a step.
    """
    check_metrics_file(path)
    wanted = json.dumps(name).encode() if name else b""
    for number, line in _whole_lines(path):
        if wanted in line:
            yield parse_line(line, number, path)


def truncate_after(path: Path, step: int) -> None:
    """Removes the lines after `step`, which a resume from `step` writes again.

    The new file replaces the old one atomically; a missing file stays missing, and a
    file without such lines stays unchanged.

    Raises:
        UserError: A line is not a JSON object with a step.
    """
    if not path.is_file():
        return
    if all(line["step"] <= step for line in iterate_metrics(path)) and _end_of_last_line(path) == path.stat().st_size:
        return
    with atomic_replacement(path, fsync=True) as temporary, open(temporary, "wb") as file:
        file.writelines(line for number, line in _whole_lines(path) if parse_line(line, number, path)["step"] <= step)


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields the complete lines with their numbers, from 1.

    Raises:
        UserError: A line exceeds the maximum length.
    """
    with open_regular(path) as file:
        for number in itertools.count(1):
            line = file.readline(_MAX_LINE_BYTES)
            if line.endswith(b"\n"):
                yield number, line
            elif len(line) < _MAX_LINE_BYTES:  # the end of the file
                return
            else:
                raise _not_a_line(line, number, path)


def _end_of_last_line(path: Path) -> int:
    """Bytes up to and including the last newline."""
    with open_regular(path) as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(end - _BLOCK_BYTES, 0)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def parse_line(line: bytes, number: int, path: Path) -> dict[str, Any]:
    """Returns a line of a metrics.jsonl.

    Raises:
        UserError: It is not a JSON object with a step, numbers and strings.
    """
    try:
        parsed = parse_json(line)
    except ValueError:
        raise _not_a_line(line, number, path) from None
    if not isinstance(parsed, dict) or not _is_step(parsed.get("step")) or not all(map(_is_value, parsed.values())):
        raise _not_a_line(line, number, path)
    return parsed


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_value(value: Any) -> bool:
    """Returns whether a value is a string, null, or a number that fits into float64."""
    return value is None or isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**1023)


def _not_a_line(line: bytes, number: int, path: Path) -> UserError:
    return UserError(
        f"{path}, line {number}, is {line[:60]!r}; expected a JSON object with an integer step, and numbers or "
        "strings: delete that line."
    )


def _json_value(value: Value) -> Value | None:
    if isinstance(value, str | int):
        return value
    return nullify_non_finite(float(value))
