"""HTML report of one or several runs in a single file: metrics, plots, warnings, checkpoints, samples and configuration."""

import base64
import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxdp import defaults
from jaxdp.config_file import flat_keys
from jaxdp.errors import UserError
from jaxdp.json_files import read_json
from jaxdp.nested import flatten
from jaxdp.redact import masked_values
from jaxdp.report.curves import read_last_values

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { font-weight: 600; line-height: 1.2; overflow-wrap: anywhere; } h2 { margin-top: 2.5rem; }
h1 { font-size: clamp(1.25rem, 5vw, 2rem); }
div { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem 1.5rem .25rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
th { font-weight: 500; opacity: .75; } .number { text-align: right; }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; margin: .5rem 0; }
details { border-left: 3px solid #d55e00; padding-left: 1rem; margin: 1rem 0; } summary { font-weight: 500; cursor: pointer; }
.flat td { white-space: nowrap; } li { overflow-wrap: anywhere; }
@media (max-width: 48rem) { img { max-width: none; width: 48rem; } }
pre { margin: 0; white-space: pre-wrap; font: 13px/1.4 ui-monospace, monospace; }
"""

DIGITS = 6  # significant digits of a number in a table
MIME_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
NUMBER = ' class="number"'
MAX_CHECKPOINTS = 50  # newest checkpoints in a table


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run that the page shows next to its metrics and its configuration.

    Attributes:
        checkpoints: A row for each checkpoint: "step", and further columns by name.
        warnings: Sentences.
        goodput: Share of the wall time by its use; empty: unknown.
    """

    checkpoints: Sequence[Mapping[str, Any]] = ()
    warnings: Sequence[str] = ()
    goodput: Mapping[str, float] = field(default_factory=dict)


def write_report(
    directories: Sequence[Path],
    pictures: Sequence[Path],
    out: Path,
    unit_of: Callable[[str], str] = lambda name: "",
    facts: Callable[[int, Mapping[str, Any]], RunFacts] = lambda number, last: RunFacts(),
) -> Path:
    """Writes the report.

    Args:
        directories: Work directories with a metrics.jsonl, one a table column.
        pictures: PNG and SVG files that are embedded in the page.
        out: File to write; its folder is created if missing.
        unit_of: Function from the full name of a metric to its unit; empty: none.
        facts: Function from the number of a directory, from 0, and its last metrics to further facts.

    Returns:
        `out`.

    Raises:
        UserError: A directory has no metrics file.
    """
    names = [directory.resolve().name for directory in directories]
    configs = [masked_values(_json_object(directory / "config.json")) for directory in directories]
    samples = [_json_object(directory / "evaluation.json").get("samples", ()) for directory in directories]
    last = [read_last_values(directory / "metrics.jsonl") for directory in directories]
    rows = _last_values(last)
    found = [facts(number, values) for number, values in enumerate(last)]
    parts = [
        f"<h1>{_text(', '.join(names))}</h1>",
        *_warnings(names, found),
        _table(names, {f"{name} ({unit})" if (unit := unit_of(name)) else name: each for name, each in rows.items()}),
        *(_picture(picture) for picture in pictures),
        *_goodput(names, found),
        *_checkpoints(names, found),
        *(_samples(name, texts) for name, texts in zip(names, samples, strict=True) if texts),
        "<h2>Configuration</h2>",
        f"<p>{'Keys that differ between the runs' if len(names) > 1 else 'Keys that differ from the defaults'}.</p>",
        _table(names, _settings(configs)),
    ]
    page = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(", ".join(names))}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def _last_values(last: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Returns the last value of each metric in each run: `step` first, then evaluations, then the rest."""
    found = sorted(
        {name for values in last for name in values if name != "time"},
        key=lambda name: (name != "step", not name.startswith("eval/"), name),
    )
    return {name: [values.get(name) for values in last] for name in found}


def _warnings(names: Sequence[str], facts: Sequence[RunFacts]) -> list[str]:
    """Returns the sentences of each run that has some, under its name if there are several runs."""
    parts = []
    for name, each in zip(names, facts, strict=True):
        if each.warnings:
            of = f" of {_text(name)}" if len(names) > 1 else ""
            items = "".join(f"<li>{_text(sentence)}</li>" for sentence in each.warnings)
            parts.append(f"<details open><summary>Warnings{of}</summary><ul>{items}</ul></details>")
    return parts


def _goodput(names: Sequence[str], facts: Sequence[RunFacts]) -> list[str]:
    """Returns the shares of the wall time by run, if one is known."""
    uses = dict.fromkeys(use for each in facts for use in each.goodput)
    if not uses:
        return []
    shares = {use: [f"{each.goodput[use]:.1%}" if use in each.goodput else None for each in facts] for use in uses}
    return ["<h2>Goodput</h2>", "<p>Share of the wall time by its use, over all starts.</p>", _table(names, shares)]


def _checkpoints(names: Sequence[str], facts: Sequence[RunFacts]) -> list[str]:
    """Returns a table of the checkpoints of each run that has some."""
    parts = []
    for name, each in zip(names, facts, strict=True):
        if each.checkpoints:
            columns = list(dict.fromkeys(column for row in each.checkpoints for column in row))
            rows = each.checkpoints[-MAX_CHECKPOINTS:]
            head = "".join(_head(column, [row.get(column) for row in rows]) for column in columns)
            body = "".join(f"<tr>{''.join(_cell(row.get(column)) for column in columns)}</tr>" for row in rows)
            title = f"Checkpoints of {_text(name)}" if len(names) > 1 else "Checkpoints"
            parts += [f"<h2>{title}</h2>", f'<div><table class="flat"><tr>{head}</tr>{body}</table></div>']
    return parts


def _settings(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Returns the values in each run of the keys that differ between the runs, or from the defaults for one run."""
    usual = json.loads(defaults.get_config().to_json())
    flat = [flatten(config) for config in configs]
    others = flat if len(flat) > 1 else [flatten(usual), *flat]
    keys = dict.fromkeys((*flat_keys(defaults.get_config()), *(key for values in flat for key in values)))
    differ = [key for key in keys if len({json.dumps(values.get(key)) for values in others}) > 1]
    return {key: [values.get(key) for values in flat] for key in differ}


def _table(names: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> str:
    if not rows:
        return "<p>None.</p>"
    columns = zip(*rows.values(), strict=True)
    head = "<th></th>" + "".join(map(_head, names, columns))
    body = "".join(f"<tr><th>{_text(name)}</th>{''.join(map(_cell, values))}</tr>" for name, values in rows.items())
    return f"<div><table><tr>{head}</tr>{body}</table></div>"


def _head(name: str, values: Sequence[Any]) -> str:
    """Returns the head of a column, on the right if most of its values are numbers."""
    known = [_is_number(value) or _is_quantity(value) for value in values if value is not None]
    return f"<th{NUMBER if 2 * sum(known) > len(known) else ''}>{_text(name)}</th>"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_quantity(value: Any) -> bool:
    """Returns whether a text is a share or a size, such as "48.5%" and "1.2 MiB"."""
    return isinstance(value, str) and bool(re.fullmatch(r"[\d.,]+(%| ([KMGTP]i)?B)", value))


def _cell(value: Any) -> str:
    if _is_quantity(value):
        return f"<td{NUMBER}>{value}</td>"
    if _is_number(value):
        return f"<td{NUMBER}>{value:,.{DIGITS}g}</td>" if isinstance(value, float) else f"<td{NUMBER}>{value:,}</td>"
    return f"<td>{'' if value is None else _text(value if isinstance(value, str) else json.dumps(value))}</td>"


def _samples(name: str, texts: Sequence[Mapping[str, str]]) -> str:
    rows = "".join(
        f"<tr><th>{_text(what)}</th><td><pre>{_text(text)}</pre></td></tr>"
        for sample in texts
        for what, text in sample.items()
    )
    return f"<h2>Samples of {_text(name)}</h2><div><table>{rows}</table></div>"


def _picture(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<div><img alt="{_text(path.stem)}" src="data:{MIME_TYPES[path.suffix.lower()]};base64,{content}"></div>'


def _json_object(path: Path) -> dict[str, Any]:
    """Returns the content of a JSON file of the run; {} if it cannot be read, as the report is useful without it."""
    try:
        return read_json(path, "a file of a run")
    except UserError:
        return {}


def _text(text: str) -> str:
    return html.escape(text)
