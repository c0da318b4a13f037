"""Comparison of two runs: the first step and leaf at which they differ, and the differences that explain it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdp.checkpoint.remote_copy import place_of, read_directory
from jaxdp.errors import UserError
from jaxdp.inspection.compare_causes import find_causes
from jaxdp.inspection.compare_checkpoints import compare_checkpoints
from jaxdp.inspection.compare_configs import compare_configs, read_config
from jaxdp.inspection.compare_metrics import compare_metrics, first_difference
from jaxdp.inspection.compare_norms import compare_norms
from jaxdp.inspection.compare_setup import (
    compute_dtype,
    data_differences,
    is_data_known,
    restarts,
    starts_before,
    version_differences,
)
from jaxdp.inspection.compare_verdict import rounding_bound, verdict
from jaxdp.json_files import nullify_non_finite
from jaxdp.provenance import Entry, read_entries
from jaxdp.workdir import WorkDir


def compare_runs(first: str | Path, second: str | Path, *, read_arrays: bool = True) -> dict[str, Any]:
    """Compares two runs, finished, interrupted or in progress.

    Args:
        first: Work directory of a run; a path or a URL.
        second: Work directory of another run.
        read_arrays: Whether the parameters that differ in the first checkpoint that differs are read, for their relative
            change; without it, checkpoints are compared by checksums alone.

    Returns:
        {"first", "second", "is_equal", "verdict", "step", "metrics", "norms", "checkpoints", "config", "later_config",
        "data", "versions", "causes", "restarts", "starts", "dtypes", "problems"}: "metrics" as of `compare_metrics`,
        "norms" as of `compare_norms`, "checkpoints" as of `compare_checkpoints`. "is_equal" is False if a compared number
        differs, and None if none was compared. "step" is the first step at which one differs, or None. "config",
        "later_config", "data" and "versions" are lists of [name, first value, second value]: "config" has what was in
        force at that step, "later_config" what came after it. "causes" has {"kind", "name", "first", "second",
        "determines"} of what the first difference of the metrics depends on. "restarts" has the steps from which each run
        was started again, "starts" the number of its starts, "dtypes" its compute dtype or None. "problems" has a sentence
        for each part that was not compared.

    Raises:
        UserError: A path holds no run, or a file of a run cannot be read.
    """
    runs = [_run(path, option) for path, option in ((first, "RUN_A"), (second, "RUN_B"))]
    configs = [read_config(run) for run in runs]
    problems: list[str] = []
    starts = [_starts(run, problems) for run in runs]
    metrics = compare_metrics(runs[0].metrics, runs[1].metrics)
    problems += _without_metrics(runs, metrics)
    difference = first_difference(metrics)
    checkpoints = compare_checkpoints(runs[0].checkpoints, runs[1].checkpoints, problems, read_arrays=read_arrays)
    norms = compare_norms(runs[0].norms, runs[1].norms)
    step, last_equal_step = _first_step(metrics, norms, checkpoints)
    config, later_config = compare_configs(runs, step, last_equal_step)
    result: dict[str, Any] = {
        "first": runs[0].place,
        "second": runs[1].place,
        "is_equal": _is_equal(metrics, norms, checkpoints, step),
        "verdict": "",
        "step": step,
        "metrics": metrics,
        "norms": norms,
        "checkpoints": checkpoints,
        "config": config,
        "later_config": later_config,
        "data": data_differences(*runs),
        "versions": version_differences(starts[0], starts[1], step) if all(starts) else [],
        "causes": [],
        "restarts": [restarts(entries) for entries in starts],
        "starts": [len(entries) for entries in starts],
        "dtypes": [
            compute_dtype(own, starts_before(entries, step)) for own, entries in zip(configs, starts, strict=True)
        ],
        "problems": problems,
    }
    is_rounding, causes = False, []
    if difference:
        relative = difference["growth"][0][2]
        is_rounding = relative is not None and relative <= rounding_bound(result["dtypes"])
        causes = find_causes(
            difference["metric"],
            {**result, "task": configs[0].get("task"), "is_data_known": is_data_known(*runs)},
            batches=metrics["batches"],
            is_rounding=is_rounding,
            is_first_step=difference["step"] <= 1,
        )
    result["causes"] = [vars(cause) for cause in causes]
    result["verdict"] = verdict(result, causes, is_rounding=is_rounding)
    return nullify_non_finite(result)


def _run(path: str | Path, option: str) -> WorkDir:
    run = read_directory(path, option)
    if why := run.why_no_run():
        raise UserError(
            f"{option}={path} holds no run ({why}); give the work directories of two runs (`jaxdp inspect --diff` compares "
            "checkpoints and weights)."
        )
    return run


def _starts(run: WorkDir, problems: list[str]) -> list[Entry]:
    entries = read_entries(run.provenance)
    if not entries:
        why = "is not a JSON array of starts" if entries is None else "is missing or empty"
        problems.append(f"{place_of(run.provenance)} {why}, so code, versions and devices were not compared.")
    return entries or []


def _without_metrics(runs: Sequence[WorkDir], metrics: Mapping[str, Any]) -> list[str]:
    """Returns a sentence for each run whose metrics were not compared."""
    missing = [
        f"{place_of(run.metrics)} is missing, so no metrics were compared." for run in runs if not run.metrics.exists()
    ]
    return missing + [
        f"{place_of(run.metrics)} has no line of training metrics, so none were compared."
        for run, lines, others in zip(runs, metrics["steps"], reversed(metrics["steps"]), strict=True)
        if run.metrics.exists() and others["count"] and not lines["count"]
    ]


def _first_step(
    metrics: Mapping[str, Any], norms: Mapping[str, Any] | None, checkpoints: Mapping[str, Any]
) -> tuple[int | None, int | None]:
    """Returns the first step at which a number differs, and the last compared step before it; None: there is none."""
    difference = first_difference(metrics)
    found = [difference and difference["step"], norms and norms["step"], checkpoints["step"]]
    step = min((at for at in found if at is not None), default=None)
    equal = [part["last_equal_step"] for part in (metrics, norms, checkpoints) if part]
    return step, max((at for at in equal if at is not None and step is not None and at < step), default=None)


def _is_equal(
    metrics: Mapping[str, Any], norms: Mapping[str, Any] | None, checkpoints: Mapping[str, Any], step: int | None
) -> bool | None:
    if step is not None:
        return False
    counts = (
        metrics["common_steps"], metrics["common_evaluations"], checkpoints["steps"], norms and norms["common_steps"],
    )  # fmt: skip
    return True if any(counts) else None
