"""Curves of the runs of a plot: horizontal axis by step, tokens, time or FLOPs, and groups of runs that differ in the seed."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdp.errors import UserError
from jaxdp.nested import flatten
from jaxdp.report.curves import Curve, over_seeds, read_columns


@dataclass(frozen=True)
class PlottedRun:
    """A run to plot.

    Attributes:
        directory: Work directory.
        config: Content of config.json; empty if it cannot be read.
        num_params: Number of parameters; None: unknown.
        num_devices: Devices of the last start; None: unknown.
    """

    directory: Path
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_params: int | None = None
    num_devices: int | None = None


@dataclass(frozen=True)
class CurveGroup:
    """Curves of one run, or of runs that differ in the seed.

    Attributes:
        name: Name in the legend.
        curves: Curves by full name of the metric, empty ones included.
    """

    name: str
    curves: Mapping[str, Curve]


AXES = {
    "step": "step (updates)",
    "tokens": "tokens",
    "time": "hours since the start",
    "flops": "FLOPs (6 x parameters x tokens)",
}
"""Horizontal axes by the value of `--by`, with their labels."""


def load_groups(runs: Sequence[PlottedRun], names: Collection[str], by: str = "step") -> list[CurveGroup]:
    """Reads the curves of runs, in the order of the runs; runs that differ only in their seeds form one group.

    Args:
        runs: Runs.
        names: Full names of the metrics.
        by: Horizontal axis, a key of `AXES`.

    Raises:
        UserError: A run has no numbers to plot, or lacks what the axis needs.
    """
    labels = _labels([run.directory for run in runs])
    members: dict[str, list[tuple[str, dict[str, Curve]]]] = {}
    for run, label in zip(runs, labels, strict=True):
        key = json.dumps(_without_seed(run.config), sort_keys=True) if run.config else str(run.directory)
        members.setdefault(key, []).append((label, load_curves(run, names, by)))
    groups = []
    for found in members.values():
        (label, curves), *others = found
        if others:
            label = f"{_stem([name for name, _ in found])} ({len(found)} seeds)"
            curves = {name: over_seeds([each[name] for _, each in found]) for name in curves}
        groups.append(CurveGroup(label, curves))
    return groups


def load_curves(run: PlottedRun, names: Collection[str], by: str = "step") -> dict[str, Curve]:
    """Reads the curves of one run; see `load_groups`."""
    path = run.directory / "metrics.jsonl"
    columns = read_columns(path, {*names, "time"} if by == "time" else names)
    if not any(np.isfinite(columns[name][1]).any() for name in names):
        raise UserError(
            f"{path} has nothing to plot; expected lines with numbers for "
            f"some of {', '.join(dict.fromkeys(names))}: let the run pass its first log.every_steps."
        )
    position = _POSITIONS[by](run, columns)
    return {name: Curve(position(steps), values) for name, (steps, values) in columns.items() if name in names}


def _by_step(run: PlottedRun, columns: Mapping) -> Callable[[np.ndarray], np.ndarray]:
    return lambda steps: steps.astype(np.float64)


def _by_tokens(run: PlottedRun, columns: Mapping) -> Callable[[np.ndarray], np.ndarray]:
    try:
        factor = run.config["global_batch_size"] * run.config["data"]["length"]
        return lambda steps: steps * float(factor)
    except (KeyError, TypeError):
        raise UserError(
            f"{run.directory / 'config.json'} has no global_batch_size and data.length, which --by=tokens and --by=flops "
            "need; use --by=step."
        ) from None


def _by_time(run: PlottedRun, columns: Mapping) -> Callable[[np.ndarray], np.ndarray]:
    steps, times = columns["time"]
    if not np.isfinite(times).any():
        raise UserError(f"{run.directory / 'metrics.jsonl'} has no times, which --by=time needs; use --by=step.")
    hours = (times - np.nanmin(times)) / 3600  # a later start may have an earlier clock: never falling
    return lambda wanted: np.interp(wanted, steps, np.maximum.accumulate(hours))


def _by_flops(run: PlottedRun, columns: Mapping) -> Callable[[np.ndarray], np.ndarray]:
    tokens = _by_tokens(run, columns)
    if not run.num_params:
        raise UserError(
            f"{run.directory / 'checkpoints'} has no whole checkpoint, which --by=flops reads the number of parameters "
            "from; use --by=tokens."
        )
    factor = 6.0 * run.num_params
    return lambda steps: factor * tokens(steps)


_POSITIONS = {"step": _by_step, "tokens": _by_tokens, "time": _by_time, "flops": _by_flops}


def scaling_rows(runs: Sequence[PlottedRun]) -> list[dict[str, float]]:
    """Returns step time and efficiency by number of devices, of runs that differ in nothing else; [] if there are none.

    The step time of a run is the median of its lines after the first; that of runs with equal counts their mean.
    """
    times: dict[int, list[float]] = {}
    keys = {json.dumps(_without_devices(run.config), sort_keys=True) for run in runs if run.config}
    counts = {run.num_devices for run in runs}
    if len(runs) < 2 or len(keys) != 1 or None in counts or len(counts) < 2 or not all(run.config for run in runs):
        return []
    for run in runs:
        values = read_columns(run.directory / "metrics.jsonl", ["perf/step_secs"])["perf/step_secs"][1][1:]
        if np.isfinite(values).any():
            times.setdefault(run.num_devices or 0, []).append(float(np.nanmedian(values)))
    rows = [{"devices": count, "step_secs": float(np.mean(each))} for count, each in sorted(times.items())]
    if len(rows) < 2:
        return []
    work = rows[0]["devices"] * rows[0]["step_secs"]
    return [row | {"efficiency": work / (row["devices"] * row["step_secs"])} for row in rows]


def check_same_task(runs: Sequence[PlottedRun]) -> None:
    """Raises UserError if runs are of different tasks, which have no metric in common."""
    tasks = {run.config["task"]: run.directory for run in runs if "task" in run.config}
    if len(tasks) > 1:
        found = ", ".join(f"{task} ({directory})" for task, directory in tasks.items())
        raise UserError(f"Runs of different tasks have no metric in common, found {found}; plot each task by itself.")


def _without_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flatten(config).items() if key != "seed"}


def _without_devices(config: Mapping[str, Any]) -> dict[str, Any]:
    free = ("seed", "parallel.cpu_devices", "microbatch_size")
    return {key: value for key, value in flatten(config).items() if key not in free}


def _labels(directories: Sequence[Path]) -> list[str]:
    """Returns the names of directories, or their paths where names are equal."""
    names = [directory.resolve().name for directory in directories]
    return [name if names.count(name) == 1 else str(each) for name, each in zip(names, directories, strict=True)]


def _stem(names: Sequence[str]) -> str:
    """Returns what names have in common at their start, without separators and the word seed."""
    letters = itertools.takewhile(lambda each: len(set(each)) == 1, zip(*names, strict=False))
    return "".join(each[0] for each in letters).rstrip("_-. ").removesuffix("seed").rstrip("_-. ") or names[0]
