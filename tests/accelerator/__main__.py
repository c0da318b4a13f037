"""Accelerator check of this machine.

    python -m tests.accelerator [--size=auto|full|tiny] [--out=DIR] [--limit=SECS] [--only=SECTION,...] [--continue=FILE]

Prints every result as it comes and the Markdown table last; writes `accelerator.json`, `accelerator.md` and a profile to
DIR (default: $OUT, else a temporary directory). On a CPU the sizes are tiny, to test the check itself. NANOGPT_DIR names a
checkout of nanoGPT to compare with. The exit code is 0 whatever the sections find: the table has failed and skipped ones.
"""

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .context import Context, read_rows, write_rows
from .report import in_order, write_report
from .runner import LOG_FILE, run_sections
from .sections import SECTIONS, Section

LIMIT_SECS = 470.0
NAMES = [section.name for section in SECTIONS]


def main(arguments: list[str] | None = None) -> int:
    """Runs the check, or one section of it in the process that the runner started for it."""
    options = _parse(arguments)
    if options.section:
        return _run_section(options)
    start = time.time()
    known = read_rows(Path(options.continued)) if options.continued else []
    with tempfile.TemporaryDirectory(prefix="jaxdp_accelerator_") as scratch:
        out = Path(options.out or os.environ.get("OUT") or tempfile.mkdtemp(prefix="jaxdp_accelerator_report_"))
        out.mkdir(parents=True, exist_ok=True)
        (out / LOG_FILE).unlink(missing_ok=True)
        sections = _sections(options.only, known)
        write_rows(out, [row for row in known if row["section"] not in {section.name for section in sections}])
        print(f"report in {out}", flush=True)
        outcomes: list[dict[str, Any]] = []
        for outcome in run_sections(sections, options.size, out, Path(scratch), start + options.limit):
            outcomes.append(outcome)
            text = _write(
                options, out, outcomes
            )  # after each section, so that whoever stops the check has what it found
    print(text, flush=True)
    return 0


def _sections(only: str | None, known: list[dict[str, Any]]) -> list[Section]:
    """Returns the sections to run; `environment`, which the others read, is one of them unless its rows are known."""
    if only is None:
        return list(SECTIONS)
    wanted = only.split(",")
    if unknown := set(wanted) - set(NAMES):
        raise SystemExit(f"--only: no section is named {', '.join(sorted(unknown))}; use one of: {', '.join(NAMES)}")
    if not any(row["section"] == "environment" for row in known):
        wanted.append("environment")
    return [section for section in SECTIONS if section.name in wanted]


def _write(options: argparse.Namespace, out: Path, outcomes: list[dict[str, Any]]) -> str:
    """Writes the report of the sections so far and returns its Markdown."""
    rows = read_rows(out)
    header = next((row["data"]["header"] for row in rows if row["name"] == "device"), {"chip": "not known"})
    command = f"`python -m tests.accelerator --size={options.size} --limit={options.limit:.0f}`"
    return write_report(out, header | {"command": command}, in_order(rows, NAMES), outcomes)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.accelerator", description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=("auto", "full", "tiny"), default="auto", help="tiny tests the check itself")
    parser.add_argument("--out", help="directory of the report; default: $OUT, else a temporary directory")
    parser.add_argument("--limit", type=float, default=LIMIT_SECS, help="seconds of the whole check")
    parser.add_argument("--only", help=f"sections to run, separated by commas: {', '.join(NAMES)}")
    parser.add_argument("--continue", dest="continued", help="rows.jsonl of an earlier report, which --only completes")
    for name in ("section", "target", "arguments", "scratch"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _run_section(options: argparse.Namespace) -> int:
    """Runs the section that the options name, or the part of it."""
    module, _, function = options.target.partition(":")
    context = Context(options.section, options.size, Path(options.out), Path(options.scratch), options.deadline)
    getattr(importlib.import_module(module, __package__), function)(context, *json.loads(options.arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
