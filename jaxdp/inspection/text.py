"""Terminal output of a description: what the checkpoint is, its configuration, where it comes from, and its arrays."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxdp.checkpoint.listing import age
from jaxdp.inspection.layers import Row, collapse, single
from jaxdp.nested import flatten
from jaxdp.provenance import describe_entry, describe_starts
from jaxdp.report.terminal import memory_size

LABEL = 10
"""Columns of the labels."""


class Line(NamedTuple):
    """Line for the terminal.

    Attributes:
        text: Its text.
        label: Number of characters at its beginning that are a label.
    """

    text: str
    label: int = 0


def as_lines(
    description: Mapping[str, Any], defaults: Mapping[str, Any], *, full: bool = False, width: int | None = None
) -> list[Line]:
    """Formats a description.

    Args:
        description: Result of `describe`.
        defaults: Default configuration, whose values are left out.
        full: Whether every array has its line, those of the optimizer and of the moving average too.
        width: Columns of the terminal; None: no limit.
    """
    lines = [_labelled("path", description["path"]), _labelled("kind", description["kind"])]
    if description["step"] is not None:
        lines.append(_labelled("step", f"{description['step']} (checkpoints: {_joined(description['steps'])})"))
    if description["time"] is not None:
        saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(description["time"]))
        lines.append(_labelled("saved", f"{saved}, {age(time.time() - description['time'])} ago"))
    if description["metrics"]:
        values = (
            f"{name.removeprefix('eval/')} {'not finite' if value is None else f'{value:.4g}'}"
            for name, value in description["metrics"].items()
        )
        lines.append(_labelled("metrics", ", ".join(values)))
    if description["data"]:
        lines.append(_labelled("data", ", ".join(f"{key} {value}" for key, value in description["data"].items())))
    lines += _config_lines(description, defaults)
    if description["provenance"]:
        lines += [Line("saved by", LABEL), *(Line(f"  {line}") for line in describe_entry(description["provenance"]))]
    if description["starts"]:
        head, *rest = describe_starts(description["starts"])
        lines += [Line(head, LABEL), *map(Line, rest)]
    for part in ("params", "ema", "opt_state"):
        if description[part]:
            lines += array_lines(part, description[part], full=full, width=width)
    return lines


def _config_lines(description: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[Line]:
    config = description["config"]
    if not config:
        return []
    if description["step"] is None:  # config.json of a Hugging Face folder
        return [Line("config", LABEL), *(Line(f"  {key} = {_short(value)}") for key, value in config.items())]
    usual, values = flatten(defaults), flatten(config)
    changed = [Line(f"  {key} = {value}") for key, value in values.items() if value != usual.get(key)]
    preset = config.get("model", {}).get("preset")
    rest = f"; other keys of model are those of the preset {preset}" if preset else ""
    return [Line(f"{'config':<{LABEL}}values that differ from the defaults{rest}", LABEL), *changed]


def array_lines(part: str, arrays: Sequence[Mapping[str, Any]], *, full: bool, width: int | None) -> list[Line]:
    """Formats the arrays of a part: sums, and for parameters or with `full` a row for each kind of array."""
    rows = single(arrays) if full else collapse(arrays)
    elements, size = sum(row.elements for row in rows), sum(row.bytes for row in rows)
    kinds = ", ".join(sorted({row.dtype for row in rows}))
    sums = f"{len(arrays)} arrays, {elements:,} elements, {size:,} bytes ({memory_size(size)}), {kinds}"
    lines = [Line(f"{part:<{LABEL}}{sums}", LABEL)]
    return lines + (_row_lines(rows, width) if full or part == "params" else [])


def _row_lines(rows: Sequence[Row], width: int | None) -> list[Line]:
    """Formats rows in columns: path, shape, dtype, number, elements, bytes."""
    cells = [
        (
            row.path,
            str(list(row.shape)),
            row.dtype,
            f"x {row.count}" if row.count > 1 else "",
            f"{row.elements:,}",
            memory_size(row.bytes),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if width is not None:
        others = sum(widths[1:]) + 2 * len(widths)
        if others + 24 > width:  # the number of elements follows from the others
            cells = [(*cell[:4], cell[5]) for cell in cells]
            widths = [*widths[:4], widths[5]]
            others = sum(widths[1:]) + 2 * len(widths)
        widths[0] = min(widths[0], max(width - others, 12))
    lines = []
    for path, *rest in cells:
        left, right = rest[:3], rest[3:]
        columns = [f"{_cut(path, widths[0]):<{widths[0]}}"]
        columns += [f"{cell:<{size}}" for cell, size in zip(left, widths[1:4], strict=True)]
        columns += [f"{cell:>{size}}" for cell, size in zip(right, widths[4:], strict=True)]
        lines.append(Line(f"  {'  '.join(columns)}"))
    return lines


def _cut(text: str, width: int) -> str:
    """Returns a text of at most this many columns, without its middle if it is longer."""
    if len(text) <= width:
        return text
    end = (width - 1) * 2 // 3
    return f"{text[: width - 1 - end]}…{text[-end:]}"


def _labelled(label: str, text: str) -> Line:
    return Line(f"{label:<{LABEL}}{text}", LABEL)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


def _joined(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))
