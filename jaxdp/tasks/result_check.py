"""Metrics of a task with checks of what its methods return: `derived_metrics`, `summarize` and `score`."""

from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from jaxdp.arguments import shown
from jaxdp.errors import UserError
from jaxdp.signatures import defined_in
from jaxdp.tasks.task import Summary, Task


def derived_metrics(task: Task, means: Mapping[str, float]) -> dict[str, float]:
    """Returns `task.derived_metrics(means)`; raises UserError unless it is a dict of numbers."""
    found = task.derived_metrics(means)
    _check_metrics("derived_metrics", task.derived_metrics, found)
    return found


def summary(task: Task, outputs: Mapping[str, np.ndarray]) -> Summary:
    """Returns `task.summarize(outputs)`; raises UserError unless it is a `Summary`."""
    return _checked_summary("summarize", task.summarize, task.summarize(outputs))


def scores(task: Task, texts: Sequence[str], references: Sequence[str]) -> Summary:
    """Returns `task.score(texts, references)`; raises UserError unless it is a `Summary`."""
    return _checked_summary("score", task.score, task.score(texts, references))


def _checked_summary(name: str, method: Callable, found: Any) -> Summary:
    if not isinstance(found, Summary):
        raise UserError(
            f"{name} of the task{defined_in(method)} must return jaxdp.tasks.Summary(metrics, report), found {shown(found)}."
        )
    _check_metrics(name, method, found.metrics)
    if not isinstance(found.report, Mapping):
        raise UserError(
            f"{name} of the task{defined_in(method)}: Summary.report must be a dict of plain JSON values, found "
            f"{shown(found.report)}."
        )
    return found


def _check_metrics(name: str, method: Callable, metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise UserError(
            f"{name} of the task{defined_in(method)} must give a dict of numbers by metric, found {shown(metrics)}."
        )
    for metric, value in metrics.items():
        if not isinstance(value, Real) and not (hasattr(value, "shape") and not np.shape(value)):
            raise UserError(
                f"{name} of the task{defined_in(method)}: the metric {metric!r} must be one number, found {shown(value)}."
            )
