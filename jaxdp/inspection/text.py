"""Terminal output of a description: what the checkpoint is, its configuration, where it comes from, and its arrays."""

import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.checkpoint.listing import age
from jaxdp.inspection.describe import RUN
from jaxdp.inspection.layers import Row, collapse, single
from jaxdp.model.presets import DERIVED, PRESETS, preset_values
from jaxdp.nested import flatten
from jaxdp.provenance import describe_entry, describe_starts
from jaxdp.report.terminal import memory_size

LABEL = 10
"""Columns of the labels."""


def as_lines(
    description: Mapping[str, Any],
    defaults: Mapping[str, Any],
    *,
    goodput: str = "",
    full: bool = False,
    width: int | None = None,
) -> list[str]:
    """Formats a description.

    Args:
        description: Result of `describe`.
        defaults: Default configuration, whose values are left out.
        goodput: Goodput of the run as one line; empty: unknown.
        full: Whether every array has its line, those of the optimizer and of the moving average too.
        width: Columns of the terminal; None: no limit.
    """
    lines = [_labelled("path", description["path"]), _labelled("kind", description["kind"])]
    if description["step"] is not None:
        lines.append(_labelled("step", f"{description['step']} (checkpoints: {_joined(description['steps'])})"))
    elif description["kind"] == RUN:
        lines.append(_labelled("step", _unsaved(description)))
    if description["time"] is not None:
        saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(description["time"]))
        lines.append(_labelled("saved", f"{saved}, {age(time.time() - description['time'])} ago"))
    if description["metrics"]:
        shown = {name.removeprefix("eval/"): value for name, value in description["metrics"].items()}
        if description["kind"] == RUN:
            shown = {key: value for key, value in description["metrics"].items() if key.startswith(("train/", "eval/"))}
        values = (f"{name} {'not finite' if value is None else f'{value:.4g}'}" for name, value in shown.items())
        lines.append(_labelled("metrics", ", ".join(values)))
    if description["data"]:
        values = (
            f"{key} {_short(value, 12)}" for key, value in description["data"].items() if isinstance(value, int | str)
        )
        lines.append(_labelled("data", ", ".join(values)))
    if goodput:
        lines.append(_labelled("goodput", goodput))
    lines += _config_lines(description, defaults)
    lines += _start_lines(description)
    if width is not None:
        lines = [part for line in lines for part in _wrapped(line, width)]
    for part in ("params", "ema", "opt_state"):
        if description[part]:
            lines += array_lines(part, description[part], full=full, width=width)
    return lines


def _unsaved(description: Mapping[str, Any]) -> str:
    last, total = description["logged_step"], description["config"].get("total_steps")
    done = f"step {last:,}{f' of {total:,}' if total else ''} is logged" if last else "no step is logged"
    return f"no checkpoint yet; {done}"


def _config_lines(description: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    config = description["config"]
    if not config:
        return []
    if description["kind"] not in ("checkpoint", RUN):  # config.json of a Hugging Face folder
        return ["config", *(f"  {key} = {_short(value, 100)}" for key, value in config.items())]
    usual, values = flatten(defaults) | _preset(config), flatten(config)
    changed = [f"  {key} = {value}" for key, value in values.items() if value != usual.get(key)]
    preset = config.get("model", {}).get("preset")
    return [
        _labelled("config", f"(values that differ from the defaults{f' and the preset {preset}' if preset else ''})"),
        *changed,
    ]


def _preset(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of the preset of a configuration by dotted key, those that follow from other values included."""
    model = config.get("model", {})
    if model.get("preset") not in PRESETS:
        return {}
    values = preset_values(model["preset"], model)
    usual = {
        key: DERIVED[key](values) if value is None and key in DERIVED else value
        for key, value in PRESETS[model["preset"]].items()
    }
    return {f"model.{key}": list(value) if isinstance(value, tuple) else value for key, value in usual.items()}


def _start_lines(description: Mapping[str, Any]) -> list[str]:
    """Returns the start that saved the checkpoint, and all starts unless this is the only one."""
    saved, starts = description["provenance"], description["starts"] or []
    lines = ["saved by", *(f"  {line}" for line in describe_entry(saved))] if saved else []
    is_only = len(starts) == 1 and saved and starts[0].get("start_time") == saved.get("start_time")
    return lines if is_only else lines + describe_starts(starts)


def array_lines(part: str, arrays: Sequence[Mapping[str, Any]], *, full: bool, width: int | None) -> list[str]:
    """Formats the arrays of a part: sums, and for parameters or with `full` a row for each kind of array."""
    rows = single(arrays) if full else collapse(arrays)
    elements, size = sum(row.elements for row in rows), sum(row.bytes for row in rows)
    kinds = ", ".join(sorted({row.dtype for row in rows}))
    exact = f"{size:,} bytes ({memory_size(size)})" if size >= 1024 else f"{size} bytes"
    sums = f"{len(arrays)} arrays, {elements:,} elements, {exact}, {kinds}"
    lines = [_labelled(part, sums)] if width is None else _wrapped(_labelled(part, sums), width)
    return lines + (_row_lines(rows, width) if full or part == "params" else [])


def _row_lines(rows: Sequence[Row], width: int | None) -> list[str]:
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
        lines.append(f"  {'  '.join(columns)}")
    return lines


def _cut(text: str, width: int) -> str:
    """Returns a text of at most this many columns, without its middle if it is longer."""
    if len(text) <= width:
        return text
    end = (width - 1) * 2 // 3
    return f"{text[: width - 1 - end]}…{text[-end:]}"


def _labelled(label: str, text: str) -> str:
    return f"{label:<{LABEL}}{text}"


def _wrapped(line: str, width: int) -> list[str]:
    """Divides a line at blanks so that it fits, with the rest indented."""
    indent = " " * (LABEL if line[:1].strip() else len(line) - len(line.lstrip()) + 4)
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    ) or [line]


def _short(value: Any, length: int) -> str:
    text = str(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _joined(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps))
