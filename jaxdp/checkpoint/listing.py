"""What lies in a directory of checkpoints: whether each is whole, and which rule keeps it."""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdp.checkpoint.manifest import Manifest, find_damage, has_manifest, read_manifest
from jaxdp.checkpoint.names import damaged_step, leftover_step, list_directory, step_of
from jaxdp.checkpoint.retention import Retention, looks_like_ours
from jaxdp.report.terminal import memory_size


def list_checkpoints(checkpoints: Path, retention: Retention, *, verify: bool) -> list[dict[str, Any]]:
    """Every checkpoint, oldest first, what is none any more behind it.

    Args:
        checkpoints: the directory.
        retention: the rules of the run.
        verify: reads every file; otherwise only that all are there with their sizes.

    Returns:
        For each {"name", "step", "time", "bytes", "metric", "verdict", "damage",
        "kept_by"}: Unix seconds; the value of the retention's metric, None where there
        is none; `intact` (every byte was read), `complete`, `damaged`, `set aside`
        (damage was found at a start), `unfinished` (a save or deletion is under
        way, or was interrupted) or `foreign` (it was not written by jaxdp); sentences;
        the rules that keep it. What a run deletes meanwhile is left out.
    """
    entries = []
    metrics: dict[int, Mapping[str, Any]] = {}
    for path in sorted(list_directory(checkpoints), key=_by_step):
        if _step_of(path) is None or not path.is_dir():
            continue
        manifest = read_manifest(path)
        entry = _described(path, manifest, retention.metric, verify=verify)
        if not path.exists():  # a run has deleted or committed it just now
            continue
        if manifest is not None and entry["verdict"] in ("intact", "complete"):
            metrics[entry["step"]] = manifest.metrics
        entries.append(entry)
    reasons = retention.reasons(metrics)
    for entry in entries:
        if entry["verdict"] in ("intact", "complete"):
            entry["kept_by"] = reasons.get(entry["step"], [])
    return entries


def _described(path: Path, manifest: Manifest | None, metric: str, *, verify: bool) -> dict[str, Any]:
    damage = []
    if damaged_step(path.name) is not None:
        verdict = "set aside"
    elif leftover_step(path.name) is not None:
        verdict = "unfinished"
    elif not has_manifest(path):
        verdict = "unfinished" if looks_like_ours(path) else "foreign"
    else:
        damage = find_damage(path, read_contents=verify)
        verdict = "damaged" if damage else "intact" if verify else "complete"
    num_bytes, changed = _size_and_time(path)
    return {
        "name": path.name,
        "step": _step_of(path),
        "time": manifest.time if manifest else changed,
        "bytes": num_bytes,
        "metric": manifest.metrics.get(metric) if manifest else None,
        "verdict": verdict,
        "damage": damage,
        "kept_by": [],
    }


def _size_and_time(directory: Path) -> tuple[int, float]:
    """Bytes of all files below, and when the newest of them was written; what is deleted meanwhile does not count."""
    num_bytes, newest = 0, 0.0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(os.path.join(parent, name))
                num_bytes, newest = num_bytes + found.st_size, max(newest, found.st_mtime)
    return num_bytes, newest


def _by_step(path: Path) -> tuple[int, str]:
    return _step_of(path) or 0, path.name


def _step_of(path: Path) -> int | None:
    """The step that the name begins with; None for what is no checkpoint and was none."""
    steps = (step_of(path.name), leftover_step(path.name), damaged_step(path.name))
    return next((step for step in steps if step is not None), None)


def as_table(entries: Sequence[Mapping[str, Any]], metric: str, now: float | None = None) -> list[str]:
    """Lines for a person: a head and one line a checkpoint, with its damage below it."""
    now = time.time() if now is None else now
    head = ("checkpoint", "age", "size", metric, "verdict", "kept by")
    rows = [
        (
            entry["name"],
            _age(now - entry["time"]),
            memory_size(entry["bytes"]),
            "-" if entry["metric"] is None else f"{entry['metric']:.4g}",
            entry["verdict"],
            ", ".join(entry["kept_by"]) or "-",
        )
        for entry in entries
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row, entry in zip((head, *rows), (None, *entries), strict=True):
        lines.append("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += [f"    {sentence}" for sentence in (entry["damage"] if entry else ())]
    return lines


def _age(secs: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if secs >= 2 * length:
            return f"{secs / length:.0f} {unit}"
    return f"{max(secs, 0):.0f} s"
