"""Parts of a section in processes of their own: an error of the device in one does not spoil the next."""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .context import Context

ROOT = Path(__file__).parents[2]


def command_of(context: Context, target: str, *arguments: Any) -> list[str]:
    """Returns the command that calls `module:function(context, *arguments)`; the arguments are JSON values."""
    options = {
        "section": context.section, "target": target, "arguments": json.dumps(arguments), "size": context.size,
        "out": context.out, "scratch": context.scratch, "deadline": context.deadline,
    }  # fmt: skip
    return [sys.executable, "-m", "tests.accelerator", *(f"--{key}={value}" for key, value in options.items())]


def run_apart(context: Context, name: str, target: str, *arguments: Any) -> None:
    """Calls a function in a process of its own, which reports its rows; a failure is a row too.

    It may take half of the time that the section has left, so that others have the rest. The section itself must not have
    started the backend, which takes most of the device memory.

    Args:
        context: Context of the section.
        name: Name of the row that reports a failure.
        target: `module:function`, relative to this package if it begins with a dot.
        *arguments: Arguments after the context, JSON values.
    """
    limit_secs = max(context.remaining_secs / 2, 0.0)
    part = dataclasses.replace(context, deadline=time.time() + limit_secs)
    # The process is in the group of the section, which the runner stops at the deadline.
    process = subprocess.Popen(
        command_of(part, target, *arguments), cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        _, errors = process.communicate(timeout=limit_secs)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        context.report(name, "stopped", f"not finished after {limit_secs:.0f} s{context.last_progress()}")
    else:
        if process.returncode:
            why = next((line for line in reversed(errors.splitlines()) if line.strip()), "no output")
            context.report(name, "failed", f"exit code {process.returncode}: {why[:300]}")
    print(errors, file=sys.stderr, end="", flush=True)
