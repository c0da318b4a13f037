"""Metric declarations recorded in checkpoints, for commands that do not construct the task."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxdp.checkpoint.manifest import committed_steps, read_manifest
from jaxdp.metrics import MetricSpec, undeclared_metric


def describe_metrics(specs: Iterable[MetricSpec]) -> dict[str, dict[str, Any]]:
    """Returns what a manifest records of metrics with a direction, by full name: {"unit", "higher_is_better"}."""
    return {
        spec.full_name: {"unit": spec.unit, "higher_is_better": spec.higher_is_better}
        for spec in specs
        if spec.higher_is_better is not None
    }


def recorded_metric(checkpoints: Path, full_name: str) -> MetricSpec:
    """Returns the declaration of a metric in the newest checkpoint that records it.

    Checkpoints of earlier versions record none; `undeclared_metric` applies to them.

    Args:
        checkpoints: Directory of the checkpoints; it may be missing.
        full_name: Name of the metric, e.g. "eval/loss".
    """
    for step in reversed(committed_steps(checkpoints)):
        manifest = read_manifest(checkpoints / str(step))
        specs: Mapping[str, Mapping[str, Any]] = (manifest and manifest.metric_specs) or {}
        if full_name in specs:
            group, _, name = full_name.rpartition("/")
            return MetricSpec(name, specs[full_name]["unit"], specs[full_name]["higher_is_better"], group=group)
    return undeclared_metric(full_name)
