"""Facts of a run for the HTML report: checkpoints, goodput, and warnings from its metrics and logs."""

import datetime
import re
from collections.abc import Mapping
from typing import Any

from jaxdp.checkpoint.manifest import committed_steps, read_manifest
from jaxdp.errors import UserError
from jaxdp.json_files import open_regular
from jaxdp.provenance import read_entries
from jaxdp.redact import redact
from jaxdp.report.goodput import goodput
from jaxdp.report.html import RunFacts
from jaxdp.report.terminal import memory_size
from jaxdp.workdir import WorkDir

MAX_STARTS = 10
MAX_DATA_WAIT = 0.1
"""Share of the time that a run may wait for its data before the report warns."""

MAX_LOG_BYTES, MAX_LOG_LINES = 2**22, 20
"""Bytes read from the end of each log, and lines shown of it."""

_TROUBLE = re.compile(
    r"cannot|could not|failed|error|damaged|diverged|not finite|roll(?:ed|ing) back|skipping|too slow|stopped|missing|not sent", re.IGNORECASE
)  # fmt: skip


def facts_of(run: WorkDir, last: Mapping[str, Any], total_steps: Any) -> RunFacts:
    """Returns the facts of a run.

    Args:
        run: Work directory.
        last: Last value of each metric, with `step`.
        total_steps: `total_steps` of the configuration; ignored unless it is a number.
    """
    found = goodput(run.root)
    shares = {label: share for label, secs, share in found.rows() if secs} if found else {}
    return RunFacts(_checkpoints(run), [*_of_metrics(run, last, total_steps), *_of_logs(run)], shares)


def _checkpoints(run: WorkDir) -> list[dict[str, Any]]:
    """Returns step, time, size and evaluation of each whole checkpoint."""
    rows = []
    for step in committed_steps(run.checkpoints):
        manifest = read_manifest(run.checkpoints / str(step))
        if manifest is None:
            rows.append({"step": step, "saved": "damaged: see jaxdp inspect --verify"})
            continue
        saved = datetime.datetime.fromtimestamp(manifest.time, datetime.UTC)
        row = {"step": step, "saved": f"{saved:%Y-%m-%d %H:%M:%S} UTC", "size": memory_size(manifest.num_bytes)}
        rows.append(row | {name: value for name, value in manifest.metrics.items() if value is not None})
    return rows


def _of_metrics(run: WorkDir, last: Mapping[str, Any], total_steps: Any) -> list[str]:
    """Returns sentences on what the last metrics and the provenance tell."""
    found = []
    step, skipped, wait = (last.get(name) for name in ("step", "train/skipped", "perf/data_wait"))
    if isinstance(total_steps, int) and isinstance(step, int) and step < total_steps:
        found.append(f"The last metrics are of step {step:,} of {total_steps:,}.")
    if isinstance(skipped, int | float) and skipped > 0:
        found.append(f"{skipped:,.0f} updates were skipped, because their loss or gradient was not finite or a spike.")
    if isinstance(wait, int | float) and wait > MAX_DATA_WAIT:
        found.append(f"{wait:.0%} of the time of the last steps was spent waiting for data.")
    starts = read_entries(run.provenance) or []
    if len(starts) > 1:
        steps = ", ".join(str(start.get("first_step", "?")) for start in starts[-MAX_STARTS:])
        more = "at last " if len(starts) > MAX_STARTS else ""
        found.append(f"The run was started {len(starts)} times, {more}from steps {steps}.")
    return found


def _of_logs(run: WorkDir) -> list[str]:
    """Returns the last lines of each log that tell of trouble."""
    found = []
    for log in sorted(run.logs.glob("process_*.log")):
        try:
            with open_regular(log) as file:
                file.seek(max(log.stat().st_size - MAX_LOG_BYTES, 0))
                lines = file.read(MAX_LOG_BYTES).decode("utf-8", "replace").splitlines()
        except OSError as error:
            raise UserError(
                f"{log} cannot be read ({error.strerror}); change its permissions or move it away."
            ) from error
        found += [f"{log.stem}: {redact(line)[:300]}" for line in lines if _TROUBLE.search(line)][-MAX_LOG_LINES:]
    return found
