"""Statistics of arrays, computed in one pass over pieces of bounded size: moments, extremes, norm, NaN, infinities, zeros."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxdp.interop.source import ParameterSource

_CHUNK = 2**20
"""Elements that are converted to float64 at once."""


@dataclasses.dataclass
class Statistics:
    """Statistics of the values seen so far; NaN and infinities count, and are left out of the rest.

    Attributes:
        size: Number of elements.
        nan: Number of NaN.
        inf: Number of infinities.
        zeros: Number of zeros.
        min: Smallest finite value; None: there is none.
        max: Largest finite value; None: there is none.
    """

    size: int = 0
    nan: int = 0
    inf: int = 0
    zeros: int = 0
    min: float | None = None
    max: float | None = None
    _mean: float = 0.0
    _squares: float = 0.0
    """Sum of squared distances from the mean."""

    def add(self, values: np.ndarray) -> None:
        """Adds values of any shape and dtype."""
        flat = values.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            self._add(flat[start : start + _CHUNK].astype(np.float64))

    def _add(self, values: np.ndarray) -> None:
        seen = self.finite
        self.size += values.size
        is_finite = np.isfinite(values)
        if not is_finite.all():
            num_nan = int(np.isnan(values).sum())
            self.nan += num_nan
            self.inf += values.size - int(is_finite.sum()) - num_nan
            values = values[is_finite]
        if not values.size:
            return
        self.zeros += values.size - int(np.count_nonzero(values))
        low, high = float(values.min()), float(values.max())
        self.min = low if self.min is None else min(low, self.min)
        self.max = high if self.max is None else max(high, self.max)
        # Chan, Golub and LeVeque's update of two sets of values, which does not cancel.
        mean = float(values.mean())
        difference, total = mean - self._mean, seen + values.size
        self._squares += float(np.square(values - mean).sum()) + difference**2 * seen * values.size / total
        self._mean += difference * values.size / total

    @property
    def finite(self) -> int:
        """Number of finite values."""
        return self.size - self.nan - self.inf

    @property
    def mean(self) -> float | None:
        """Mean of the finite values."""
        return self._mean if self.finite else None

    @property
    def std(self) -> float | None:
        """Population standard deviation of the finite values."""
        return math.sqrt(self._squares / self.finite) if self.finite else None

    @property
    def norm(self) -> float:
        """Euclidean norm of the finite values."""
        return math.sqrt(self._squares + self._mean**2 * self.finite)

    def as_json(self) -> dict[str, Any]:
        """Returns all numbers by name."""
        names = ("size", "mean", "std", "min", "max", "norm", "nan", "inf", "zeros")
        return {name: getattr(self, name) for name in names}


def compute_statistics(source: ParameterSource) -> Iterator[tuple[str, Statistics]]:
    """Reads every array and yields its name and its statistics."""
    for name, pieces in source.streams():
        statistics = Statistics()
        for piece in pieces:
            statistics.add(piece)
        yield name, statistics


def as_table(rows: list[dict[str, Any]]) -> list[str]:
    """Formats {"path", ...} of `Statistics.as_json` as a table, and a line for arrays with values that are not finite."""
    head = ("array", "mean", "std", "min", "max", "norm", "zeros", "nan", "inf")
    cells = [(row["path"], *(_number(row[name]) for name in head[1:6]), _share(row), *_bad(row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = []
    for path, *numbers in (head, *cells):
        columns = [f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:], strict=True)]
        lines.append(f"{path:<{widths[0]}}  {'  '.join(columns)}".rstrip())
    bad = [row["path"] for row in rows if row["nan"] or row["inf"]]
    summary = f"{len(bad)} of {len(rows)} arrays have values that are not finite" if bad else "all values are finite"
    return [*lines, summary]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _share(row: dict[str, Any]) -> str:
    if not row["zeros"]:
        return "0"
    return f"{100 * row['zeros'] / row['size']:.3g} %"


def _bad(row: dict[str, Any]) -> tuple[str, str]:
    return f"{row['nan']:,}", f"{row['inf']:,}"
