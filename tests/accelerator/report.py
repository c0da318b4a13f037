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
        rows: Rows with `section`, `name`, `result` and `note`, in the order of the table.
        outcomes: Outcomes of the sections with `section`, `status` and `secs`.
    """
    lines = [f"- {name}: {_cell(value)}" for name, value in header.items()]
    lines += ["", "| section | measurement | result | details |", "| --- | --- | --- | --- |"]
    lines += [f"| {' | '.join(_cell(row[key]) for key in ('section', 'name', 'result', 'note'))} |" for row in rows]
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


def in_order(rows: Sequence[Mapping[str, Any]], sections: Sequence[str]) -> list[Mapping[str, Any]]:
    """Returns the rows section by section, each with its rows as they came; sections may run at the same time."""
    return sorted(rows, key=lambda row: sections.index(row["section"]))


def _cell(value: Any) -> str:
    """Returns a value as one cell: no line breaks, no column separators."""
    return " ".join(str(value).split()).replace("|", "\\|")
