"""Curves of a run from its metrics.jsonl: streamed reading, decimation by minimum and maximum, means over seeds."""

import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdp.errors import UserError
from jaxdp.json_files import open_regular
from jaxdp.report.writers import check_metrics_file, parse_line

BLOCK_BYTES = 2**22
"""Bytes that are parsed at once: a file of any size is read in the memory of some blocks."""

MAX_POINTS = 4000
"""Largest number of points of a curve in a picture, which has fewer columns."""


@dataclass(frozen=True)
class Curve:
    """One metric over an axis, of one run or of several that differ in their seeds.

    Attributes:
        x: Positions `[points]` float64, not falling.
        values: Values `[points]` float64, NaN where the file has null; the mean of several runs.
        low: Smallest value of several runs; None for one run.
        high: Largest value of several runs; None for one run.
    """

    x: np.ndarray
    values: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def read_columns(path: Path, names: Collection[str], prefix: str = "") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Reads metrics of a metrics.jsonl, a block of lines at a time.

    Args:
        path: The file; an incomplete last line is left out.
        names: Full names of metrics; "time" is one.
        prefix: Prefix of further metrics to read; empty: none.

    Returns:
        Steps `[lines] int64` and values `[lines] float64` of the lines that have the metric, by name.

    Raises:
        UserError: The file is missing, a line is not a JSON object with a step, or a value is a string.
    """
    check_metrics_file(path)
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in names}
    for first, block in _blocks(path):
        rows = _rows(block, first, path)
        if prefix:
            parts |= {
                name: [] for row in rows for name in row if name.startswith(prefix) and name not in parts
            }  # fmt: skip
        for name, found in parts.items():
            having = [row for row in rows if name in row]
            if having:
                found.append(_column(having, name, path))
    empty = np.zeros(0, np.int64), np.zeros(0)
    return {
        name: (np.concatenate([steps for steps, _ in found]), np.concatenate([values for _, values in found]))
        if found
        else empty
        for name, found in parts.items()
    }


def read_last_values(path: Path) -> dict[str, Any]:
    """Returns the last value of each metric, in constant memory; see `read_columns`."""
    check_metrics_file(path)
    last: dict[str, Any] = {}
    for first, block in _blocks(path):
        for row in _rows(block, first, path):
            last.update(row)
    return last


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yields whole lines, some megabytes at a time, with the number of the first, from 1."""
    first, rest = 1, b""
    with open_regular(path) as file:
        while content := file.read(BLOCK_BYTES):
            end = content.rfind(b"\n") + 1
            if not end:
                rest += content
                continue
            block, rest = rest + content[:end], content[end:]
            yield first, block
            first += block.count(b"\n")


def _rows(block: bytes, first: int, path: Path) -> Sequence[dict[str, Any]]:
    """Parses lines at once, which takes a fifth of the time of one by one; one by one if a line is damaged."""
    try:
        rows = json.loads(b"[" + block[:-1].replace(b"\n", b",") + b"]")
        if len(rows) == block.count(b"\n") and all(type(row) is dict and type(row.get("step")) is int for row in rows):
            return rows
    except (ValueError, RecursionError):
        pass  # the lines below name the one that is damaged
    return [
        parse_line(line, number, path) for number, line in zip(itertools.count(first), block.splitlines(), strict=False)
    ]


def _column(rows: Sequence[dict[str, Any]], name: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    values = [row[name] for row in rows]
    for row, value in zip(rows, values, strict=True) if set(map(type, values)) - {float, int, type(None)} else ():
        if not isinstance(value, int | float | None):
            raise UserError(
                f"{path}: {name} of step {row['step']} is {str(value)[:40]!r}, expected a number: delete that line."
            )
    return np.array([row["step"] for row in rows], np.int64), np.array(values, np.float64)


def decimated(curve: Curve, max_points: int = MAX_POINTS) -> Curve:
    """Returns a curve that looks the same: of each of many equal stretches the smallest and the largest value."""
    size = len(curve.x)
    if size <= max_points:
        return curve
    starts = np.linspace(0, size, max_points // 2 + 1).astype(np.int64)[:-1]
    kept = [np.array([0, size - 1])]
    for sign in (1, -1):
        heights = np.where(np.isfinite(curve.values), sign * curve.values, np.inf)
        smallest = np.repeat(np.minimum.reduceat(heights, starts), np.diff(np.append(starts, size)))
        found = np.flatnonzero(heights == smallest)
        stretches = np.searchsorted(starts, found, "right")
        kept.append(found[np.unique(stretches, return_index=True)[1]])
    index = np.unique(np.hstack(kept))
    low, high = (None if each is None else each[index] for each in (curve.low, curve.high))
    return Curve(curve.x[index], curve.values[index], low, high)


def over_seeds(curves: Sequence[Curve]) -> Curve:
    """Returns the mean of several runs with the smallest and the largest value, where all of them have one.

    Values between the positions of a run are interpolated.
    """
    whole = [Curve(each.x[good], each.values[good]) for each in curves for good in [np.isfinite(each.values)]]
    whole = [each for each in whole if each.x.size]
    if len(whole) < 2:
        return whole[0] if whole else curves[0]
    first, last = max(each.x[0] for each in whole), min(each.x[-1] for each in whole)
    x = min((each.x for each in whole), key=len)
    x = x[(x >= first) & (x <= last)]
    values = np.array([np.interp(x, each.x, each.values) for each in whole])
    if not x.size:
        return Curve(x, x, x, x)
    return Curve(x, values.mean(0), values.min(0), values.max(0))
