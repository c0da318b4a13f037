"""Plot of training curves of one or several runs, with bands over seeds.

Matplotlib is imported inside functions, and only its `Figure` is used: no window, no
global state.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdp.cache_home import set_matplotlib_directory
from jaxdp.metrics import LEARNING_RATE, LOSS, TOKENS_PER_SEC, TRAIN_LOSS, MetricSpec
from jaxdp.report.curves import Curve, decimated
from jaxdp.report.plot_fonts import fonts_for
from jaxdp.report.run_curves import AXES, PlottedRun, load_groups

COLORS = (  # the first seven: Okabe and Ito 2008, distinct for colour-blind readers
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000",
    "#8c564b", "#9467bd", "#7f7f00",
)  # fmt: skip
INK, GREY, GRID = "#222222", "#6b6b6b", "#e4e4e4"
FONT_SIZE = 9.0  # points
EVALUATION = {
    "linewidth": 1.0,
    "linestyle": (0, (4, 2)),
    "marker": "o",
    "markersize": 5,
    "markerfacecolor": "white",
    "markeredgewidth": 1.4,
    "clip_on": False,  # so that a ring at the edge is not cut
}
SMOOTHING_SHARE = 0.015  # half width of the moving average, as a share of the points of a curve
LEGEND_LETTERS = 130  # characters that fit on a line of the legend
HEADROOM = 1.06  # upper end of an axis that starts at 0, by the largest value
LOG_RATIO = 4.0  # a loss that falls by more than this factor gets a logarithmic axis


@dataclass(frozen=True)
class _Run:
    """Curves of one run, or of one group of seeds."""

    name: str
    color: str
    train_loss: Curve
    eval_loss: Curve
    learning_rate: Curve
    tokens_per_sec: Curve
    metric: Curve


@dataclass(frozen=True)
class _EndLabel:
    """Label at the end of a curve: its last value."""

    value: float
    text: str
    color: str


def plot_runs(
    runs: Sequence[PlottedRun], out: Path, metric: MetricSpec = LOSS, loss: MetricSpec = LOSS, by: str = "step"
) -> Path:
    """Plots loss, learning rate, throughput and an evaluation metric as one picture.

    Training loss and throughput have a thin line, with a moving average on top;
    evaluations are rings. Runs that differ only in the seed are one line, the mean, in a band
    from the smallest to the largest value. A label at the end of each curve has its last value.

    Args:
        runs: Runs with a metrics.jsonl, overlaid in one colour each.
        out: File to write, .png or .svg; its folder is created if missing.
        metric: Declaration of the evaluation metric that gets a panel of its own, such
            as `eval/bleu`, where a run has it; the loss has one anyway.
        loss: Declaration of the loss, for its unit.
        by: Horizontal axis, a key of `AXES`.

    Returns:
        `out`.

    Raises:
        UserError: A directory has no metrics file, or the file has no numbers to plot.
    """
    set_matplotlib_directory()
    loaded = _load_runs(runs, metric.full_name, by)
    out.parent.mkdir(parents=True, exist_ok=True)
    with fonts_for(run.name for run in loaded):
        save(_figure(loaded, metric, loss, AXES[by]), out)
    return out


def save(figure, out: Path) -> None:
    """Writes a figure in the format of the file's suffix, without dates, so that equal plots are equal files."""
    import matplotlib

    kind = out.suffix.lower().removeprefix(".") or "png"
    with matplotlib.rc_context({"svg.hashsalt": "jaxdp"}):
        figure.savefig(out, format=kind, metadata={"Date": None} if kind == "svg" else None)


def _figure(runs: list[_Run], metric: MetricSpec, loss: MetricSpec, axis: str = AXES["step"]):
    """Lays out the loss on top and the other panels in a row below."""
    from matplotlib.figure import Figure

    below = [(_title("Learning rate", LEARNING_RATE.unit), _draw_learning_rate)]
    below.append((_title("Throughput", TOKENS_PER_SEC.unit), _draw_throughput))
    if metric.full_name != loss.full_name and any(run.metric.x.size for run in runs):
        name = metric.full_name.removeprefix("eval/").replace("_", " ").capitalize()
        direction = "higher is better" if metric.higher_is_better else "lower is better"
        below.insert(0, (_title(name, metric.unit, direction), _draw_metric))
    columns = max(1, LEGEND_LETTERS // (max(len(run.name) for run in runs) + 8))
    header = 0.085 + 0.026 * ((len(runs) - 1) // columns)
    figure = Figure(figsize=(11, 7.5), dpi=150, facecolor="white")
    grid = figure.add_gridspec(
        2, len(below), height_ratios=(2, 1), hspace=0.3, wspace=0.21 * len(below),
        left=0.075, right=0.905, bottom=0.075, top=1 - header,
    )  # fmt: skip
    _panel(figure.add_subplot(grid[0, :]), runs, _title("Loss", loss.unit), _draw_loss, axis)
    for column, (title, draw) in enumerate(below):
        _panel(figure.add_subplot(grid[1, column]), runs, title, draw, axis)
    _add_legends(figure.axes[0], runs, columns)
    return figure


def _title(name: str, *notes: str) -> str:
    """Returns the title of a panel: the name, its unit and other notes in parentheses."""
    noted = ", ".join(filter(None, notes))
    return f"{name} ({noted})" if noted else name


def _load_runs(runs: Sequence[PlottedRun], metric: str, by: str = "step") -> list[_Run]:
    keys = (TRAIN_LOSS.full_name, LOSS.full_name, LEARNING_RATE.full_name, TOKENS_PER_SEC.full_name, metric)
    return [
        _Run(group.name, COLORS[index % len(COLORS)], *(group.curves[key] for key in keys))
        for index, group in enumerate(load_groups(runs, keys, by))
    ]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Computes a centred moving average that skips NaN.

    The window grows with the distance from the start, where the loss falls steeply and
    a window of fixed width would lag behind it.
    """
    indices = np.arange(len(values))
    half_width = np.minimum(indices // 4, int(SMOOTHING_SHARE * len(values)))
    first = indices - half_width
    last = np.minimum(indices + half_width, len(values) - 1)
    finite = np.isfinite(values)
    totals = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0.0], np.cumsum(finite)])
    total, count = totals[last + 1] - totals[first], counts[last + 1] - counts[first]
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _end_label(values: np.ndarray, color: str, write: Callable[[float], str]) -> list[_EndLabel]:
    finite = values[np.isfinite(values)]
    return [_EndLabel(finite[-1], write(finite[-1]), color)] if finite.size else []


def _draw_line(axes, curve: Curve, color: str) -> None:
    curve = decimated(curve)
    marker = "o" if curve.x.size == 1 else None  # a line through a single point is invisible
    axes.plot(curve.x, curve.values, color=color, linewidth=1.8, marker=marker, markersize=4)


def _draw_band(axes, curve: Curve, color: str) -> None:
    """Draws the band of several seeds, if the curve is of several."""
    if curve.low is not None:
        band = decimated(curve)
        axes.fill_between(band.x, band.low, band.high, color=color, alpha=0.2, linewidth=0)


def _draw_smoothed(axes, curve: Curve, color: str) -> np.ndarray:
    smoothed = _smooth(curve.values)
    if curve.low is None or curve.high is None:
        raw = decimated(curve)
        axes.plot(raw.x, raw.values, color=color, linewidth=0.6, alpha=0.35)
    else:
        _draw_band(axes, Curve(curve.x, curve.values, _smooth(curve.low), _smooth(curve.high)), color)
    _draw_line(axes, Curve(curve.x, smoothed), color)
    return smoothed


def _draw_evaluations(axes, curve: Curve, color: str) -> None:
    _draw_band(axes, curve, color)
    axes.plot(curve.x, curve.values, color=color, zorder=4, **EVALUATION)


def _draw_loss(axes, runs: list[_Run]) -> list[_EndLabel]:
    ends = []
    for run in runs:
        smoothed = _draw_smoothed(axes, run.train_loss, run.color)
        ends += _end_label(smoothed, run.color, "train {:.3f}".format)
        _draw_evaluations(axes, run.eval_loss, run.color)
        ends += _end_label(run.eval_loss.values, run.color, "eval {:.3f}".format)
    _set_loss_scale(axes, [values for run in runs for values in (run.train_loss.values, run.eval_loss.values)])
    return ends


def _set_loss_scale(axes, series: list[np.ndarray]) -> None:
    """Sets a logarithmic axis if the loss falls far, so that its late part stays readable."""
    from matplotlib.ticker import LogLocator

    values = np.concatenate(series)
    values = values[np.isfinite(values)]
    if values.size and values.min() > 0 and values.max() > LOG_RATIO * values.min():
        axes.set_yscale("log")
        many_decades = values.max() > 30 * values.min()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if many_decades else (1, 1.5, 2, 3, 4, 5, 7)))
        axes.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")
        axes.minorticks_off()


def _draw_metric(axes, runs: list[_Run]) -> list[_EndLabel]:
    ends = []
    for run in runs:
        _draw_evaluations(axes, run.metric, run.color)
        ends += _end_label(run.metric.values, run.color, "{:.4g}".format)
    axes.set_xlim(left=0)
    return ends


def _draw_learning_rate(axes, runs: list[_Run]) -> list[_EndLabel]:
    ends = []
    for run in runs:
        _draw_line(axes, run.learning_rate, run.color)
        ends += _end_label(run.learning_rate.values, run.color, _scientific)
    _start_at_zero(axes)
    axes.yaxis.set_major_formatter(lambda value, _position: _scientific(value))
    return ends


def _scientific(value: float) -> str:
    """Formats a number as in a config: 2.5e-4, and 0 as 0."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}" if value else "0"


def _draw_throughput(axes, runs: list[_Run]) -> list[_EndLabel]:
    from matplotlib.ticker import EngFormatter

    ends = []
    for run in runs:
        smoothed = _draw_smoothed(axes, run.tokens_per_sec, run.color)
        ends += _end_label(smoothed, run.color, EngFormatter(places=1, sep=""))
    _start_at_zero(axes)
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    return ends


def _start_at_zero(axes) -> None:
    """Starts the vertical axis at 0 and leaves room above the curves, also above those of a constant."""
    highest = axes.dataLim.y1
    axes.set_ylim(0, HEADROOM * highest if np.isfinite(highest) and highest > 0 else None)


def _panel(axes, runs: list[_Run], title: str, draw: Callable, axis: str) -> None:
    """Formats one panel: the curves of `draw`, a title, a grid and labels at the ends."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    ends = draw(axes, runs)
    axes.set_title(title, loc="left", fontsize=FONT_SIZE + 1, color=INK, fontweight="bold")
    axes.set_xlabel(axis, fontsize=FONT_SIZE, color=GREY)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=axis == AXES["step"]))
    if axis == AXES["time"]:  # the prefix of a thousandth, "m", would read as minutes
        axes.xaxis.set_major_formatter(lambda value, _position: f"{value:g}")
    else:
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.margins(x=0.01)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=FONT_SIZE, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    if ends:
        _add_end_labels(axes, ends)
    else:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, color=GREY, ha="center")


def _add_end_labels(axes, ends: list[_EndLabel]) -> None:
    """Places the last values right of the axes, at the height of their curves, without overlap."""
    axes.autoscale_view()  # computes the limits, which the heights below need
    ends = sorted(ends, key=lambda end: end.value)
    line_height = 1.35 * FONT_SIZE / 72 * axes.figure.dpi / axes.bbox.height
    points = axes.transData.transform([(0.0, end.value) for end in ends])
    heights = axes.transAxes.inverted().transform(points)[:, 1]
    for end, height in zip(ends, _spread(heights, line_height), strict=True):
        axes.text(
            1.012, height, end.text, transform=axes.transAxes, color=end.color, fontsize=FONT_SIZE,
            va="center",
        )  # fmt: skip


def _spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """Moves sorted `heights` apart, each pair by equal shares, until any two differ by `gap`.

    No result is below 0, where the labels of the steps are.
    """
    spread = heights.astype(np.float64)
    for _ in range(200):
        overlap = np.maximum(gap - np.diff(spread), 0.0)
        spread[:-1] -= overlap / 2
        spread[1:] += overlap / 2
    return spread + max(0.0, -spread[0])


def _add_legends(axes, runs: list[_Run], columns: int) -> None:
    """Adds the legends of run names and of line styles above the axes, where no curve is."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    plain = {"fontsize": FONT_SIZE, "frameon": False, "borderaxespad": 0, "columnspacing": 1.8}
    names = axes.figure.legend(
        handles=[Line2D([], [], color=run.color, linewidth=2.5, label="run") for run in runs],
        loc="upper left", bbox_to_anchor=(0.07, 0.985), ncols=columns, labelcolor=INK, **plain,
    )  # fmt: skip
    for text, run in zip(names.get_texts(), runs, strict=True):
        text.set(text=run.name, parse_math=False)  # as a label, `_` would hide it and `$` be mathematics
    has_bands = [run.train_loss.low is not None or run.eval_loss.low is not None for run in runs]
    lines: list[Any] = [] if all(has_bands) else [Line2D([], [], color=GREY, linewidth=0.6, label="each logged step")]
    lines += [Patch(color=GREY, alpha=0.2, linewidth=0, label="range over seeds")] if any(has_bands) else []
    lines.append(Line2D([], [], color=GREY, linewidth=1.8, label="moving average"))
    lines.append(Line2D([], [], color=GREY, **EVALUATION, label="evaluation"))
    axes.legend(
        handles=lines,
        loc="lower right", bbox_to_anchor=(1, 1.005), ncols=len(lines), labelcolor=GREY, **plain,
    )  # fmt: skip
