"""Section runner: one process a section, with a time limit; a failure is a row of the table and stops nothing else."""

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .apart import ROOT, command_of
from .context import Context, append_row, read_rows
from .sections import Section

KILL_SECS = 10.0
"""Time that a killed section has to end: a process inside the driver may not."""

LOG_FILE = "sections.log"
"""Standard error of all sections, in the output directory."""

TAIL_LINES = 12
"""Last lines of a failed section's standard error that the JSON file keeps."""


def run_sections(
    sections: Sequence[Section], size: str, out: Path, scratch: Path, deadline: float
) -> Iterator[dict[str, Any]]:
    """Runs all sections, those of one stage at the same time, and yields the outcome of each.

    Args:
        sections: Sections, sorted by stage.
        size: "full", "tiny" or "auto": that of the rows of `environment`, which finds it; full if that section failed.
        out: Output directory.
        scratch: Temporary directory of the sections.
        deadline: Unix time of the end of the check.
    """
    has_started = False
    for _, stage in itertools.groupby(sections, key=lambda section: section.stage):
        if size == "auto":
            size = _size_found(out) or ("full" if has_started else "auto")
        has_started = True
        running = []
        for section in stage:
            if deadline - time.time() < section.min_secs:
                yield _outcome(out, section, "skipped", 0.0, "no time left")
            else:
                running.append(_Run(section, size, out, scratch, deadline))
        for run in running:
            yield run.finish()


def _size_found(out: Path) -> str | None:
    """Returns the size that section `environment` chose, in this check or the one that it continues."""
    return next((row["data"]["size"] for row in read_rows(out) if row["name"] == "device"), None)


class _Run:
    """Running section."""

    def __init__(self, section: Section, size: str, out: Path, scratch: Path, deadline: float):
        self._section, self._out, self._start = section, out, time.time()
        self._deadline = min(deadline, self._start + section.limit_secs)
        self._log_path = scratch / f"{section.name.replace(' ', '_')}.log"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(scratch / "xla"),
            "XLA_PYTHON_CLIENT_MEM_FRACTION": str(section.memory_fraction),
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1"),
        }
        self._context = Context(section.name, size, out, scratch, self._deadline)
        with open(self._log_path, "wb") as log:
            self._process = subprocess.Popen(
                command_of(self._context, section.target), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def finish(self) -> dict[str, Any]:
        """Waits for the section, stops it at its deadline, and returns its outcome."""
        try:
            code = self._process.wait(max(self._deadline - time.time(), 0.1))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            self._stop()
        secs, tail = time.time() - self._start, self._keep_log()
        if code is None:
            why = f"not finished after {secs:.0f} s{self._context.last_progress()}"
            return _outcome(self._out, self._section, "stopped", secs, why, tail)
        if code:
            why = next((line for line in reversed(tail) if line.strip()), "no output")
            return _outcome(self._out, self._section, "failed", secs, f"exit code {code}: {why[:300]}", tail)
        return _outcome(self._out, self._section, "done", secs)

    def _stop(self) -> None:
        """Kills the process group of the section, which may have started processes of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_SECS)

    def _keep_log(self) -> list[str]:
        """Appends the log of the section to the log of the check, and returns its last lines."""
        text = self._log_path.read_text(encoding="utf-8", errors="replace")
        with open(self._out / LOG_FILE, "a", encoding="utf-8") as file:
            file.write(f"=== {self._section.name}\n{text}\n")
        return text.splitlines()[-TAIL_LINES:]


def _outcome(
    out: Path, section: Section, status: str, secs: float, reason: str = "", tail: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the outcome of a section, and records a row for one that did not finish."""
    if status != "done":
        append_row(out, {"section": section.name, "name": "section", "result": status, "note": reason, "data": {}})
    return {"section": section.name, "status": status, "secs": round(secs, 1), "reason": reason, "output": list(tail)}
