"""Collapse of arrays by layer: one row for those that differ only in the number of their layer."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

_NUMBER = re.compile(r"(?<![A-Za-z0-9])[0-9]+(?![A-Za-z0-9])")
"""Number between separators: of a layer, an expert, an element of a list."""


class Row(NamedTuple):
    """Arrays of one shape and dtype.

    Attributes:
        path: Their paths, with the numbers in braces where they differ: `layer_{0..11}/attention/query/kernel`.
        shape: Shape of each.
        dtype: Dtype of each.
        count: Number of arrays.
        bytes: Bytes of all.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    count: int
    bytes: int

    @property
    def elements(self) -> int:
        """Elements of all arrays."""
        return math.prod(self.shape) * self.count


def collapse(arrays: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Collapses {"path", "shape", "dtype", "bytes"} of each array, in the order of the first of each row."""
    groups: dict[Any, list[tuple[tuple[int, ...], int]]] = {}
    for array in arrays:
        key = (tuple(_NUMBER.split(array["path"])), tuple(array["shape"]), array["dtype"])
        numbers = tuple(int(match) for match in _NUMBER.findall(array["path"]))
        groups.setdefault(key, []).append((numbers, array["bytes"]))
    return [
        Row(_path(texts, [numbers for numbers, _ in part]), shape, dtype, len(part), sum(size for _, size in part))
        for (texts, shape, dtype), members in groups.items()
        for part in _rectangles(members)
    ]


def single(arrays: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Returns a row for each array."""
    return [Row(array["path"], tuple(array["shape"]), array["dtype"], 1, array["bytes"]) for array in arrays]


def _rectangles(members: Sequence[tuple[tuple[int, ...], int]]) -> list[list[tuple[tuple[int, ...], int]]]:
    """Divides arrays into sets whose numbers are all combinations of some values at each position."""
    values = [set(column) for column in zip(*(numbers for numbers, _ in members), strict=True)]
    if math.prod(map(len, values)) == len(members):
        return [list(members)]
    axis = next(axis for axis, column in enumerate(values) if len(column) > 1)
    by_value: dict[int, list] = {}
    for member in members:
        by_value.setdefault(member[0][axis], []).append(member)
    return [part for own in by_value.values() for part in _rectangles(own)]


def _path(texts: Sequence[str], numbers: Sequence[tuple[int, ...]]) -> str:
    """Returns the texts of a path, with the ranges of the numbers between them."""
    ranges = [_ranges(sorted(set(column))) for column in zip(*numbers, strict=True)]
    return "".join(text + each for text, each in zip(texts, [*ranges, ""], strict=True))


def _ranges(values: Sequence[int]) -> str:
    """Returns `7`, `{0..11}` or `{0..4,6,8}`."""
    if len(values) == 1:
        return str(values[0])
    runs = []
    for _, run in itertools.groupby(enumerate(values), lambda pair: pair[1] - pair[0]):
        own = [value for _, value in run]
        runs.append(f"{own[0]}..{own[-1]}" if len(own) > 2 else ",".join(map(str, own)))
    return f"{{{','.join(runs)}}}"
