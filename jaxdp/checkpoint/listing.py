"""Listing of a checkpoint directory: integrity of each checkpoint and the retention rules that keep it."""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdp.checkpoint.manifest import Manifest, find_damage, has_manifest, read_manifest
from jaxdp.checkpoint.names import damaged_step, leftover_step, list_directory, step_of
from jaxdp.checkpoint.remote_copy import complete, stored_damage
from jaxdp.checkpoint.retention import Retention, looks_like_ours
from jaxdp.errors import DamageFound
from jaxdp.report.terminal import memory_size


def list_checkpoints(checkpoints: Path, retention: Retention, *, verify: bool) -> list[dict[str, Any]]:
    """Lists all checkpoints, oldest first; leftovers of a step follow its checkpoint.

    Args:
        checkpoints: Directory of checkpoints.
        retention: Retention rules of the run.
        verify: Whether every file is read; otherwise only existence and sizes are checked.

    Returns:
        {"name", "step", "time", "bytes", "metric", "verdict", "damage", "kept_by"} for each.
        "time" is in Unix seconds. "metric" is the value of the retention metric or None.
        "verdict" is `intact` (every byte was read), `complete`, `damaged`, `set aside`
        (found damaged at a start), `unfinished` (a save or deletion is running or was
        interrupted) or `foreign` (not written by jaxdp). "damage" has sentences, "kept_by"
        the retention rules. Checkpoints that a run deletes meanwhile are left out.
    """
    entries = []
    metrics: dict[int, Mapping[str, Any]] = {}
    for path in sorted(list_directory(checkpoints), key=_by_step):
        if _step_of(path) is None or not path.is_dir():
            continue
        manifest = read_manifest(path)
        entry = _described(path, manifest, retention.metric, verify=verify)
        if not path.exists():  # a run has deleted or committed it meanwhile
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
        damage = _damage(path, verify=verify)
        verdict = "damaged" if damage else "intact" if verify else "complete"
    num_bytes, changed = size_and_time(path)
    return {
        "name": path.name,
        "step": _step_of(path),
        "time": manifest.time if manifest else changed,
        "bytes": manifest.num_bytes if manifest else num_bytes,  # of a copy not all files are there
        "metric": manifest.metrics.get(metric) if manifest else None,
        "verdict": verdict,
        "damage": damage,
        "kept_by": [],
    }


def _damage(path: Path, *, verify: bool) -> list[str]:
    """Returns a sentence for each damaged file; those of a copy are looked up in the store, or downloaded to verify them."""
    if verify:
        try:
            complete(path)
        except DamageFound as damage:
            return [str(damage).rstrip(".")]
    stored = None if verify else stored_damage(path)
    return find_damage(path, read_contents=verify) if stored is None else stored


def size_and_time(directory: Path) -> tuple[int, float]:
    """Returns the bytes of all files below and the newest modification time; files deleted meanwhile do not count."""
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
    """Returns the step of a checkpoint, leftover or damaged checkpoint; None for other entries."""
    steps = (step_of(path.name), leftover_step(path.name), damaged_step(path.name))
    return next((step for step in steps if step is not None), None)


def as_table(entries: Sequence[Mapping[str, Any]], metric: str, now: float | None = None) -> list[str]:
    """Formats the list as a table: a header and one line per checkpoint, followed by its damage."""
    now = time.time() if now is None else now
    head = ("checkpoint", "age", "size", metric, "verdict", "kept by")
    rows = [
        (
            entry["name"],
            age(now - entry["time"]),
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


def age(secs: float) -> str:
    """Formats an age with one unit: `3 h`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if secs >= 2 * length:
            return f"{secs / length:.0f} {unit}"
    return f"{max(secs, 0):.0f} s"
