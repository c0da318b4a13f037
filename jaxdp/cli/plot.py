"""Plots of training curves and classifier evaluations, as PNG files and an HTML page."""

import argparse
import functools
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdp.cli import options as shared
from jaxdp.errors import UserError
from jaxdp.json_files import read_json
from jaxdp.metrics import LOSS, TRAINING_METRICS, MetricSpec, undeclared_metric
from jaxdp.paths import local_path
from jaxdp.report.terminal import print_status
from jaxdp.workdir import WorkDir


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp plot`."""
    parser.add_argument("directories", nargs="+", metavar="DIR", help="work directories")
    parser.add_argument(
        "--out", metavar="FILE", help="PNG file of the training curves; default: plots/training.png in the first DIR"
    )
    parser.add_argument(
        "--html", action="store_true", help="also write an HTML page with plots, metrics, samples and configurations"
    )
    shared.add_cpu_devices(parser, uses_devices=False)
    parser.epilog = "A DIR with the evaluation.json of `jaxdp eval` also gets plots/evaluation.png."


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp plot` and returns the exit code."""
    shared.refuse_rest(options, rest)
    from jaxdp.report.plotting import plot_runs

    runs = [WorkDir(directory, "DIR") for directory in options.directories]
    out = local_path(options.out, "--out") if options.out is not None else runs[0].plots / "training.png"
    directories = [run.root for run in runs]
    metric, loss = _metric(runs[0], _configured(runs[0], "eval", "metric")), _metric(runs[0], LOSS.full_name)
    pictures = [plot_runs(directories, out, metric, loss)]
    pictures += filter(None, map(_plot_evaluation, runs))
    for picture in pictures:
        shared.show(picture)
    if options.html:
        from jaxdp.report.html import write_report

        shared.show(write_report(directories, pictures, out.with_suffix(".html"), functools.partial(_unit, runs[0])))
    return 0


def _metric(run: WorkDir, name: Any) -> MetricSpec:
    """Returns the declaration of a metric as the run's checkpoints record it; the loss where there is no name."""
    from jaxdp.checkpoint.metric_records import recorded_metric

    if not isinstance(name, str):
        return LOSS
    try:
        metric = recorded_metric(run.checkpoints, name)
    except UserError:  # a plot of metrics.jsonl needs no checkpoints
        metric = undeclared_metric(name)
    return LOSS if name == LOSS.full_name and not metric.unit else metric


def _unit(run: WorkDir, name: str) -> str:
    """Returns the unit of a metric, or an empty string: that of the training metrics, or as checkpoints record it."""
    declared = {spec.full_name: spec.unit for spec in TRAINING_METRICS}
    return declared[name] if name in declared else _metric(run, name).unit


def _plot_evaluation(run: WorkDir) -> Path | None:
    """Plots the run's last evaluation; returns None, and prints how to get one, if there is none."""
    from jaxdp.report.evaluation_plots import PLOTTED_TASKS, plot_evaluation, read_report

    report = read_report(run.evaluation)
    if report is not None:
        try:
            return plot_evaluation(report, run.plots / "evaluation.png", run.root.name)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(
                f"{run.evaluation} is not a report of `jaxdp eval` ({type(error).__name__}: {error}): "
                f"let `jaxdp eval --workdir={run.root}` write it again."
            ) from error
    if not run.evaluation.exists() and _configured(run, "task") in PLOTTED_TASKS:
        print_status(
            f"no confusion matrix and curves: `jaxdp eval --workdir={run.root}` makes "
            f"{run.evaluation.name}, which `jaxdp plot` draws"
        )
    return None


def _configured(run: WorkDir, *path: str) -> Any:
    """Returns a value of the run's configuration; None if it cannot be read, as plots of metrics do not need it."""
    try:
        return functools.reduce(operator.getitem, path, read_json(run.config, "the config.json of a run"))
    except (UserError, KeyError, TypeError):
        return None
