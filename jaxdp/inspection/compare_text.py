"""Terminal output of a comparison of two runs, with the verdict at its end."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.inspection.compare_verdict import counted
from jaxdp.quoting import shortened

_MAX_ROWS = 20
"""Maximum number of rows of a section."""

_MAX_CHARACTERS = 60
"""Maximum number of characters of a value."""


def as_lines(result: Mapping[str, Any], *, full: bool = False, width: int | None = None) -> list[str]:
    """Formats a result of `compare_runs`.

    Args:
        result: The result.
        full: Whether every row is shown.
        width: Columns to which the verdict is wrapped; None: it is one line.
    """
    limit = None if full else _MAX_ROWS
    lines = [f"first     {result['first']}", f"second    {result['second']}"]
    titles = {
        "config": f"config at step {result['step']:,}" if result["step"] and any(result["restarts"]) else "config",
        "later_config": "config of later starts",
        "data": "data",
        "versions": "code, versions and devices",
    }
    for name, title in titles.items():
        if rows := result[name]:
            cells = [(f"  {key}", _value(first), _value(second)) for key, first, second in rows]
            lines += _table((title, "first", "second"), cells, limit)
    lines += _metrics(result["metrics"], limit)
    lines += _norms(result["norms"]) if result["norms"] else []
    lines += _checkpoints(result["checkpoints"], limit)
    lines += [f"note      {problem}" for problem in result["problems"]]
    told = f"verdict   {result['verdict']}"
    return lines + (textwrap.wrap(told, width, subsequent_indent=" " * 10, break_on_hyphens=False) if width else [told])


def _metrics(metrics: Mapping[str, Any], limit: int | None) -> list[str]:
    span = f" ({metrics['first_common_step']:,} to {metrics['last_common_step']:,})" if metrics["common_steps"] else ""
    steps, evaluations = (
        counted(metrics[key], what)
        for key, what in (("common_steps", "common step"), ("common_evaluations", "evaluation"))
    )
    lines = [f"metrics   {steps}{span}, {evaluations}"]
    cells = [
        (
            f"  {row['metric']}",
            f"{row['step']:,}",
            _value(row["first"]),
            _value(row["second"]),
            _number(row["growth"][0][1]),
            _number(row["growth"][0][2]),
            f"{row['different']:,} of {row['compared']:,}",
            _number(row["growth"][-1][2]),
        )
        for row in metrics["differences"]
    ]
    head = ("  metric", "step", "first", "second", "absolute", "relative", "differ", "relative at the end")
    return lines + (_table(head, cells, limit) if cells else [])


def _norms(norms: Mapping[str, Any]) -> list[str]:
    first, step = norms["first_common_step"], norms["step"]
    end = step if step is not None else norms["last_equal_step"]
    span = f" ({first:,} to {end:,})" if norms["common_steps"] else ""
    cells = [
        (
            f"  {row['kind']}/{row['leaf']}",
            f"{step:,}",
            _value(row["first"]),
            _value(row["second"]),
            _number(row["relative"]),
            f"{row['different']:,} of {row['compared']:,}",
        )
        for row in norms["differences"]
    ]
    head = ("  norm, the first in the order of data flow", "step", "first", "second", "relative", "differ")
    lines = [f"norms     {counted(norms['common_steps'], 'common step')}{span}"]
    return lines + (_table(head, cells, None) if cells else [])


def _checkpoints(checkpoints: Mapping[str, Any], limit: int | None) -> list[str]:
    steps = checkpoints["steps"]
    shown = f" ({', '.join(f'{step:,}' for step in steps[-8:])})" if steps else ""
    lines = [f"checkpoints  {len(steps):,} of the same step{shown}"]
    for part, counts in checkpoints["parts"].items():
        told = [f"{count:,} {kind.replace('_', ' in the ')}" for kind, count in counts.items() if count]
        lines.append(f"  step {checkpoints['step']:,}  {part}: {', '.join(told)}")
    if checkpoints["changes"]:
        cells = [
            (f"  {change['path']}", _number(change["relative"]), _number(change["max"]), _dtypes(change["dtypes"]))
            for change in checkpoints["changes"]
        ]
        lines += _table(("  parameter, in the order of data flow", "relative", "largest", ""), cells, limit)
    return lines


def _dtypes(dtypes: Sequence[str]) -> str:
    return "" if len(set(dtypes)) == 1 else " -> ".join(dtypes)


def _table(head: Sequence[str], cells: Sequence[Sequence[str]], limit: int | None) -> list[str]:
    shown = [head, *cells[:limit]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    more = len(cells) - len(shown) + 1
    return [*lines, f"  and {more:,} more; --full shows all"] if more else lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return shortened(", ".join(map(str, value)) or "-", _MAX_CHARACTERS)
    return "-" if value is None else shortened(str(value), _MAX_CHARACTERS)
