"""What lies in a directory of checkpoints: whether each is whole, and which rule keeps it."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdp.checkpoint.manifest import MANIFEST, Manifest, find_damage, read_manifest
from jaxdp.checkpoint.retention import DAMAGED_MARK, LEFTOVER_MARKS, Retention
from jaxdp.terminal import memory_size


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
        (damage was found at a start) or `unfinished` (a save or deletion is under
        way, or was interrupted); sentences; the rules that keep it.
    """
    entries = []
    manifests: dict[int, Manifest] = {}
    for path in sorted(checkpoints.iterdir(), key=_by_step) if checkpoints.is_dir() else ():
        if not path.is_dir() or _step_of(path) is None:
            continue
        entry = _described(path, retention.metric, verify=verify)
        if entry["verdict"] in ("intact", "complete"):
            manifests[entry["step"]] = read_manifest(path)
        entries.append(entry)
    reasons = retention.reasons({step: manifest.metrics for step, manifest in manifests.items()})
    for entry in entries:
        if entry["verdict"] in ("intact", "complete"):
            entry["kept_by"] = reasons.get(entry["step"], [])
    return entries


def _described(path: Path, metric: str, *, verify: bool) -> dict[str, Any]:
    manifest = read_manifest(path)
    damage = []
    if DAMAGED_MARK in path.name:
        verdict = "set aside"
    elif any(mark in path.name for mark in LEFTOVER_MARKS) or not (path / MANIFEST).exists():
        verdict = "unfinished"
    else:
        damage = find_damage(path, read_contents=verify)
        verdict = "damaged" if damage else "intact" if verify else "complete"
    return {
        "name": path.name,
        "step": _step_of(path),
        "time": manifest.time if manifest else path.stat().st_mtime,
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "metric": manifest.metrics.get(metric) if manifest else None,
        "verdict": verdict,
        "damage": damage,
        "kept_by": [],
    }


def _by_step(path: Path) -> tuple[int, str]:
    return _step_of(path) or 0, path.name


def _step_of(path: Path) -> int | None:
    """The step that the name begins with; None for what is no checkpoint and was none."""
    step, _, mark = path.name.partition(".")
    known = not mark or any(f".{mark}".startswith(start) for start in (DAMAGED_MARK, *LEFTOVER_MARKS))
    return int(step) if step.isdecimal() and known else None


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
