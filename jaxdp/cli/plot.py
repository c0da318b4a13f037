"""Plots of training curves, scaling, norms and classifier evaluations, as PNG or SVG files and an HTML page."""

import argparse
import functools
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxdp.cli import options as shared
from jaxdp.errors import UserError
from jaxdp.json_files import read_json
from jaxdp.metrics import LOSS, PACE_METRICS, TRAINING_METRICS, MetricSpec, undeclared_metric
from jaxdp.paths import local_path
from jaxdp.report.run_curves import AXES, PlottedRun
from jaxdp.report.terminal import print_status
from jaxdp.workdir import WorkDir

if TYPE_CHECKING:
    from jaxdp.report.html import RunFacts

FORMATS = (".png", ".svg")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `jaxdp plot`."""
    parser.add_argument("directories", nargs="+", metavar="DIR", help="work directories; one plot compares them")
    parser.add_argument(
        "--out", metavar="FILE",
        help="picture of the training curves, .png or .svg; default: plots/training.png in DIR, of several plots/comparison.png "
        "in the first",
    )  # fmt: skip
    parser.add_argument("--by", choices=AXES, default="step", help="horizontal axis; default: step")
    parser.add_argument(
        "--norms", action="store_true", help="also draw the per-parameter norms of each run that logged them"
    )
    parser.add_argument(
        "--html", action="store_true", help="also write an HTML page with plots, metrics, samples and configurations"
    )
    shared.add_cpu_devices(parser, uses_devices=False)
    parser.epilog = (
        "Runs that differ only in the seed are one line in a band. Runs that differ only in the number of devices also get a "
        "plot of step time and efficiency. A DIR with the evaluation.json of `jaxdp eval` also gets plots/evaluation.png."
    )


def run(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Runs `jaxdp plot` and returns the exit code."""
    shared.refuse_rest(options, rest)
    from jaxdp.checkpoint.remote_copy import read_directory
    from jaxdp.report.plotting import plot_runs
    from jaxdp.report.run_curves import check_same_task, scaling_rows

    runs = [read_directory(directory, "DIR") for directory in options.directories]
    out = _out(options.out, runs)
    plotted = [_plotted(run, options.by) for run in runs]
    check_same_task(plotted)
    metric, loss = _metric(runs[0], _configured(runs[0], "eval", "metric")), _metric(runs[0], LOSS.full_name)
    norms = _norms(runs, out) if options.norms else []
    pictures = [plot_runs(plotted, out, metric, loss, options.by)]
    if rows := scaling_rows(plotted):
        from jaxdp.report.scaling_plot import plot_scaling

        pictures.append(plot_scaling({"measured": rows}, _beside(out, "scaling"), measured=True))
    pictures += norms
    pictures += filter(None, map(_plot_evaluation, runs))
    for picture in pictures:
        shared.show(picture)
    if options.html:
        from jaxdp.cli.plot_facts import facts_of
        from jaxdp.report.html import write_report

        def facts(number: int, last: Mapping[str, Any]) -> "RunFacts":
            return facts_of(runs[number], last, plotted[number].config.get("total_steps"))

        directories, unit_of = [run.root for run in runs], functools.partial(_unit, runs[0])
        shared.show(write_report(directories, pictures, out.with_suffix(".html"), unit_of, facts))
    return 0


def _out(given: str | None, runs: Sequence[WorkDir]) -> Path:
    """Returns the file of the training curves.

    Raises:
        UserError: It is no picture, or a comparison would replace the picture of one run.
    """
    from jaxdp.report.scaling_plot import check_picture

    if given is None:
        return runs[0].plots / ("training.png" if len(runs) == 1 else "comparison.png")
    out = local_path(given, "--out")
    check_picture(out, "--out", FORMATS)
    if len(runs) > 1 and out.resolve().with_suffix("") in {run.plots.resolve() / "training" for run in runs}:
        raise UserError(
            f"--out={out} is the plot of one of the runs, which a comparison must not replace; choose another file."
        )
    return out


def _norms(runs: Sequence[WorkDir], out: Path) -> list[Path]:
    """Plots the norms of each run that logged some next to the training curves, and names the others.

    Raises:
        UserError: No run has norms.
    """
    from jaxdp.report.norms_plot import has_norms, plot_norms

    names = ["norms"] if len(runs) == 1 else [f"norms_{number}" for number in range(1, len(runs) + 1)]
    shown = {name: run for name, run in zip(names, runs, strict=True) if has_norms(run.root)}
    for run in runs:
        if shown and run not in shown.values():
            print_status(f"no plot of norms: {run.root} was trained without log.norms_every_steps")
    return [
        plot_norms(run.root, _beside(out, name)) for name, run in (shown or dict(zip(names, runs, strict=True))).items()
    ]


def _beside(out: Path, name: str) -> Path:
    return out.with_name(f"{out.stem}_{name}{out.suffix}")


def _plotted(run: WorkDir, by: str) -> PlottedRun:
    """Returns a run with what its files tell of it; a file that cannot be read is needed by some plots only."""
    config = _configured(run)
    return PlottedRun(
        run.root, config if isinstance(config, dict) else {}, _num_params(run) if by == "flops" else None, _num_devices(run)
    )  # fmt: skip


def _num_params(run: WorkDir) -> int | None:
    """Returns the number of parameters of the newest whole checkpoint; None if there is none."""
    from jaxdp.checkpoint.manifest import committed_steps, read_manifest

    for step in reversed(committed_steps(run.checkpoints)):
        if manifest := read_manifest(run.checkpoints / str(step)):
            shapes = [leaf["shape"] for leaf in manifest.leaves if leaf["path"].startswith("params/")]
            return sum(map(math.prod, shapes)) or None
    return None


def _num_devices(run: WorkDir) -> int | None:
    """Returns the number of devices of the last start; None if it is not recorded."""
    from jaxdp.provenance import read_entries

    devices = (read_entries(run.provenance) or [{}])[-1].get("devices")
    count = devices.get("count") if isinstance(devices, dict) else None
    return count if isinstance(count, int) else None


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
    declared = {spec.full_name: spec.unit for spec in (*TRAINING_METRICS, *PACE_METRICS)}
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
