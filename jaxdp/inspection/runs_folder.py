"""Table of the runs in a folder: step, age, metric and size of each."""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdp.checkpoint.listing import age, size_and_time
from jaxdp.checkpoint.manifest import MANIFEST, committed_steps, read_manifest
from jaxdp.config import read_run_config
from jaxdp.errors import UserError
from jaxdp.paths import resolved_path
from jaxdp.report.terminal import memory_size
from jaxdp.workdir import WorkDir

MAX_DEPTH = 3
"""Levels of folders in which runs are looked for."""


def list_runs(path: str) -> list[dict[str, Any]] | None:
    """Lists the runs below a folder, the one that was saved last first.

    Returns:
        {"path", "task", "step", "total_steps", "time", "metric", "value", "bytes", "problem"} of each; "step" is that of
        the newest checkpoint, or None, "value" that of "metric" there. None: the path is a run itself, or has none below.
    """
    root = resolved_path(path, "PATH")
    if _is_run(root) or (root / MANIFEST).is_file():
        return None
    runs = [_described(run, root) for run in _runs(root, MAX_DEPTH)]
    return sorted(runs, key=lambda run: -run["time"]) or None


def _is_run(path: Path) -> bool:
    return (path / "checkpoints").is_dir()


def _runs(folder: Path, depth: int) -> list[Path]:
    if not depth or not folder.is_dir():
        return []
    found = []
    with contextlib.suppress(PermissionError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                own = Path(entry.path)
                found += [own] if _is_run(own) else _runs(own, depth - 1)
    return found


def _described(path: Path, root: Path) -> dict[str, Any]:
    run = WorkDir(path)
    num_bytes, changed = size_and_time(path)
    entry = {
        "path": str(path.relative_to(root)), "task": None, "step": None, "total_steps": None, "time": changed,
        "metric": None, "value": None, "bytes": num_bytes, "problem": None,
    }  # fmt: skip
    try:
        config = read_run_config(run.config)
        entry |= {"task": config.task, "total_steps": config.total_steps, "metric": config.eval.metric}
        steps = committed_steps(run.checkpoints)
    except UserError as error:
        return entry | {"problem": str(error)}
    if steps:
        manifest = read_manifest(run.checkpoints / str(steps[-1]))
        entry["step"] = steps[-1]
        if manifest is None:
            entry["problem"] = f"{run.checkpoints / str(steps[-1]) / MANIFEST} is damaged"
        else:
            entry |= {"time": manifest.time, "value": manifest.metrics.get(config.eval.metric)}
    return entry


def as_table(runs: Sequence[Mapping[str, Any]], now: float | None = None) -> list[str]:
    """Formats the list: a header and one line for each run, followed by its problem."""
    now = time.time() if now is None else now
    head = ("run", "task", "step", "age", "metric", "size")
    rows = [
        (
            run["path"],
            run["task"] or "-",
            _progress(run),
            age(now - run["time"]),
            "-" if run["value"] is None else f"{run['metric'].removeprefix('eval/')} {run['value']:.4g}",
            memory_size(run["bytes"]),
        )
        for run in runs
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row, run in zip((head, *rows), (None, *runs), strict=True):
        lines.append("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += [f"    {run['problem']}"] if run and run["problem"] else []
    return lines


def _progress(run: Mapping[str, Any]) -> str:
    if run["step"] is None:
        return "-"
    return f"{run['step']}/{run['total_steps']}" if run["total_steps"] else str(run["step"])
