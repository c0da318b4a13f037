"""Comparison of two runs: the first step and leaf at which they differ, and the differences that explain it."""

import argparse
import shutil
import sys
from collections.abc import Sequence

from jaxdp.cli import options as shared


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp compare`."""
    parser.add_argument("first", metavar="RUN_A", help="work directory or URL of a run, finished or in progress")
    parser.add_argument("second", metavar="RUN_B", help="work directory or URL of another run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--full", action="store_true", help="show every key, metric and parameter that differs")
    parser.add_argument(
        "--checksums_only",
        action="store_true",
        help="compare checkpoints by the checksums of their leaves, read no arrays",
    )
    shared.add_cpu_devices(parser, uses_devices=False)
    parser.epilog = "The exit code is 0 whether or not the runs differ; 2 if a path holds no run."


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp compare` and returns the exit code."""
    shared.refuse_rest(options, rest)
    from jaxdp.inspection.compare import compare_runs

    result = compare_runs(options.first, options.second, read_arrays=not options.checksums_only)
    if options.json:
        shared.show_json(result)
        return 0
    from jaxdp.inspection.compare_text import as_lines

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    shared.show("\n".join(as_lines(result, full=options.full, width=width)))
    return 0
