"""Report of the check: a Markdown table and a JSON file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

JSON_FILE, MARKDOWN_FILE = "accelerator.json", "accelerator.md"


def markdown(
    header: Mapping[str, str], rows: Sequence[Mapping[str, Any]], outcomes: Sequence[Mapping[str, Any]]
) -> str:
    """Returns the report as Markdown: a line for each header entry, a table of the rows, and the time of each section.

    Args:
        header: Chip, driver, versions, date and command, by name.
        rows: Rows with `section`, `name`, `result` and `note`; the sections follow the order of `outcomes`.
        outcomes: Outcomes of the sections with `section`, `status` and `secs`.
    """
    order = {outcome["section"]: index for index, outcome in enumerate(outcomes)}
    lines = [f"- {name}: {_cell(value)}" for name, value in header.items()]
    lines += ["", "| section | measurement | result | details |", "| --- | --- | --- | --- |"]
    for row in sorted(rows, key=lambda row: order.get(row["section"], len(order))):
        lines.append(f"| {' | '.join(_cell(row[key]) for key in ('section', 'name', 'result', 'note'))} |")
    times = ", ".join(f"{outcome['section']} {outcome['secs']:.0f} s ({outcome['status']})" for outcome in outcomes)
    return "\n".join([*lines, "", f"Sections: {times}.", ""])


def write_report(
    out: Path, header: Mapping[str, str], rows: Sequence[Mapping[str, Any]], outcomes: Sequence[Mapping[str, Any]]
) -> str:
    """Writes both files and returns the Markdown."""
    text = markdown(header, rows, outcomes)
    (out / MARKDOWN_FILE).write_text(text, encoding="utf-8")
    content = {"header": dict(header), "sections": list(outcomes), "rows": list(rows)}
    (out / JSON_FILE).write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    return text


def _cell(value: Any) -> str:
    """Returns a value as one cell: no line breaks, no column separators."""
    return " ".join(str(value).split()).replace("|", "\\|")
