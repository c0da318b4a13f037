"""Plots of a classifier's evaluation: confusion matrix, ROC and precision-recall curves, calibration.

The numbers are those of the report of `jaxdp.tasks.classification_metrics`, read from
evaluation.json. scikit-learn's displays are not used: they colour a confusion matrix by
counts, parse `$` in label names as mathematics, and take a second to import. Matplotlib
is imported inside functions, and only its `Figure` is used: no window, no global state.
"""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdp.cache_home import set_matplotlib_directory
from jaxdp.errors import UserError
from jaxdp.json_files import read_json
from jaxdp.report.plot_fonts import fonts_for
from jaxdp.report.plotting import COLORS, FONT_SIZE, GREY, GRID, INK

MAX_NAMED_LABELS = 30  # up to this number, the sides of a confusion matrix have label names
MAX_LABELS_WITH_COUNTS = 12  # up to this number, the cells of a confusion matrix have counts
MAX_NAME_LETTERS = 16
DARK = 0.55  # share of a row above which white letters are more readable
BAND, MAX_BAR, BAR_COLOR = 0.24, 0.18, "#d4d8de"  # heights and colour of the counts below a reliability curve
MIN_POINT_AREA, MAX_POINT_AREA = 10.0, 60.0  # square points
FAINT = "#b4bac2"  # zero counts, and curves without a colour of their own
PLOTTED_TASKS = ("classification",)  # tasks whose evaluations can be plotted


def read_report(path: Path) -> dict[str, Any] | None:
    """Reads the report of an evaluation.json, if `plot_evaluation` supports its kind.

    Returns:
        The report; None if there is no such file, or no plot of its kind, e.g. of translations.

    Raises:
        UserError: The file is not a report of `jaxdp eval`.
    """
    if not os.path.lexists(path):
        return None
    report = read_json(path, "the report of an evaluation: let `jaxdp eval` write it again")
    return report if isinstance(report.get("kind"), str) and report["kind"] in _PANELS else None


def plot_evaluation(report: Mapping[str, Any], out: Path, name: str = "") -> Path:
    """Writes the plot of an evaluation's report as one PNG file.

    Args:
        report: `Summary.report` of a classification.
        out: File to write; its folder is created if missing.
        name: Name of the run, for the heading.

    Returns:
        `out`.

    Raises:
        UserError: The report has no examples, or its kind has no plot.
    """
    picture = draw_evaluation(report, name)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(picture)
    return out


def has_plot(report: Mapping[str, Any]) -> bool:
    """Returns whether `draw_evaluation` supports the kind of a report, and whether it has examples."""
    return report.get("kind") in _PANELS and bool(report.get("num_examples"))


def draw_evaluation(report: Mapping[str, Any], name: str = "") -> bytes:
    """Draws the report of an evaluation as a PNG.

    single_label: confusion matrix, ROC, precision against recall, and reliability;
    multi_label: precision, recall and F1 of each label instead of the matrix;
    regression: predicted against true values.

    Args:
        report: `Summary.report` of a classification.
        name: Name of the run, for the heading.

    Returns:
        Content of the PNG file.

    Raises:
        UserError: The report has no examples, or its kind has no plot.
    """
    set_matplotlib_directory()
    panels = _PANELS.get(report.get("kind", ""))
    if panels is None:
        raise UserError(
            f"There is no plot for an evaluation of kind {report.get('kind')!r}; expected one of: {', '.join(_PANELS)}."
        )
    if not report["num_examples"]:
        what = "examples with a finite output" if report.get("num_not_finite") else "examples"
        raise UserError(f"The evaluation has no {what}, so there is nothing to plot: check its split and checkpoint.")
    content = io.BytesIO()
    with fonts_for([name, *report.get("labels", ())]):
        _figure(panels, report, name).savefig(content, format="png")
    return content.getvalue()


def _figure(panels: Mapping[str, Callable], report: Mapping[str, Any], name: str):
    """Lays out the panels in a grid, under a heading."""
    from matplotlib.figure import Figure

    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.6 * columns, 5.0 * rows), dpi=150, facecolor="white", layout="constrained")
    for number, (title, draw) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        draw(axes, report)
        axes.set_title(title, loc="left", fontsize=FONT_SIZE + 1, color=INK, fontweight="bold")
        axes.tick_params(colors=GREY, labelsize=FONT_SIZE, length=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
    figure.suptitle(_heading(report, name), x=0.012, ha="left", fontsize=FONT_SIZE + 1, color=GREY, parse_math=False)
    return figure


def _heading(report: Mapping[str, Any], name: str) -> str:
    """Returns the heading: run, checkpoint, split and number of examples."""
    parts = [name] if name else []
    if "step" in report:
        parts += [f"step {report['step']}", f"split {report['split']}"]
    parts.append(f"{report['num_examples']:,} examples")
    if report.get("num_not_finite"):
        parts.append(f"{report['num_not_finite']:,} more without a finite output")
    if report.get("accuracy") is not None:
        parts.append(f"accuracy {report['accuracy']:.3f}")
    return ",  ".join(parts)


def _draw_confusion(axes, report: Mapping[str, Any]) -> None:
    """Draws the confusion matrix, coloured by the share of the row so that rare labels are visible."""
    counts = np.array(report["confusion_matrix"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xlabel("predicted", fontsize=FONT_SIZE, color=GREY)
    axes.set_ylabel("true", fontsize=FONT_SIZE, color=GREY)
    if len(counts) <= MAX_NAMED_LABELS:
        positions = np.arange(len(counts))
        names = list(map(_short, report["labels"]))
        axes.set_xticks(positions, names, parse_math=False, rotation=90 if len(counts) > 4 else 0)
        axes.set_yticks(positions, names, parse_math=False)
    else:
        axes.set(xticks=[], yticks=[])
    if len(counts) <= MAX_LABELS_WITH_COUNTS:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > DARK else INK if count else FAINT
            axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=FONT_SIZE)


def _draw_roc(axes, report: Mapping[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    for curve, color in _colored(report["roc"]):
        axes.plot(curve["false_positive_rate"], curve["true_positive_rate"], color=color, linewidth=1.5)
    _finish_curves(axes, report["roc"], "auc", ("false positive rate", "true positive rate"), "lower right")


def _draw_precision_recall(axes, report: Mapping[str, Any]) -> None:
    for curve, color in _colored(report["precision_recall"]):
        axes.plot(*_best_precisions(curve), color=color, linewidth=1.5, drawstyle="steps-post")
    curves = report["precision_recall"]
    _finish_curves(axes, curves, "average_precision", ("recall", "precision"), "lower left")


def _best_precisions(curve: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct recalls, descending, with the best precision at each.

    As steps, they enclose the average precision.
    """
    recall, precision = np.array(curve["recall"]), np.array(curve["precision"])
    is_best = np.append(np.diff(recall) != 0, True)
    return recall[is_best], precision[is_best]


def _draw_calibration(axes, report: Mapping[str, Any]) -> None:
    """Draws accuracy against confidence, with bars for the number of predictions below.

    Points with few predictions are small, because their accuracy is uncertain.
    """
    bins = report["calibration"]["bins"]
    confidence = [each["confidence"] for each in bins]
    accuracy = [each["accuracy"] for each in bins]
    counts = np.array([each["count"] for each in bins], np.int64)
    heights = MAX_BAR * counts / counts.max()
    axes.bar(confidence, heights, width=0.045, bottom=-BAND, color=BAR_COLOR)
    for position, height, count in zip(confidence, heights, counts, strict=True):
        axes.text(
            position, height - BAND + 0.01, f"{count:,}", ha="center", va="bottom", color=GREY, fontsize=FONT_SIZE - 2
        )
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    axes.plot(confidence, accuracy, color=COLORS[0], linewidth=1.0, alpha=0.5)
    sizes = MIN_POINT_AREA + MAX_POINT_AREA * counts / counts.max()
    axes.scatter(confidence, accuracy, s=sizes, color=COLORS[0], linewidths=0, clip_on=False, zorder=3)
    _set_square(axes, ("confidence", "share that is right"))
    axes.set(ylim=(-BAND, 1.02), yticks=np.linspace(0, 1, 6))
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.text(
        0.03, 0.94, f"calibration error {report['calibration']['error']:.3f}", transform=axes.transAxes,
        color=COLORS[0], fontsize=FONT_SIZE,
    )  # fmt: skip


def _draw_classes(axes, report: Mapping[str, Any]) -> None:
    """Draws precision, recall and F1 of each label, the most frequent on top."""
    classes = sorted(report["classes"], key=lambda row: row["support"])[-MAX_NAMED_LABELS:]
    positions = np.arange(len(classes))
    for key, color, marker in (("precision", COLORS[0], "<"), ("recall", COLORS[1], ">"), ("f1", COLORS[2], "o")):
        axes.plot(
            [row[key] for row in classes], positions, marker, color=color, markersize=5, label=key.replace("f1", "F1"),
            clip_on=False,
        )  # fmt: skip
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(classes) - 0.4))
    axes.set_yticks(positions, [_short(row["label"]) for row in classes], parse_math=False)
    axes.grid(axis="both", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(
        fontsize=FONT_SIZE, frameon=False, labelcolor=INK, loc="lower right", bbox_to_anchor=(1, 1), ncols=3,
        borderaxespad=0, columnspacing=1.2, handletextpad=0.2,
    )  # fmt: skip


def _draw_pairs(axes, report: Mapping[str, Any]) -> None:
    true, predicted = np.array(report["pairs"]).T
    ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
    axes.plot(ends, ends, color=GREY, linewidth=0.8, linestyle=":")
    axes.plot(true, predicted, "o", color=COLORS[0], markersize=3, alpha=0.6)
    axes.set_xlabel("true", fontsize=FONT_SIZE, color=GREY)
    axes.set_ylabel("predicted", fontsize=FONT_SIZE, color=GREY)
    axes.text(
        0.03, 0.94, f"root mean squared error {report['root_mean_squared_error']:.4g}",
        transform=axes.transAxes, color=COLORS[0], fontsize=FONT_SIZE,
    )  # fmt: skip


_PANELS: dict[str, dict[str, Callable]] = {
    "single_label": {
        "Confusion (examples)": _draw_confusion,
        "ROC, each label against the others": _draw_roc,
        "Precision against recall": _draw_precision_recall,
        "Reliability": _draw_calibration,
    },
    "multi_label": {
        "Each label": _draw_classes,
        "ROC of each label": _draw_roc,
        "Precision against recall": _draw_precision_recall,
        "Reliability": _draw_calibration,
    },
    "regression": {"Predicted against true": _draw_pairs},
}
"""Title and drawing function of each panel, by kind of the report."""

_AREAS = {"auc": "area under the curve", "average_precision": "average precision"}


def _colored(curves: Sequence[Mapping[str, Any]]):
    """Returns each curve with its colour; curves beyond the distinct colours come first, in grey."""
    rest = [(curve, FAINT) for curve in curves[len(COLORS) :]]
    return [*rest, *zip(curves, COLORS, strict=False)]


def _finish_curves(axes, curves: Sequence[Mapping[str, Any]], key: str, sides: tuple[str, str], corner: str) -> None:
    """Sets both axes to 0 to 1 and adds a legend of the curves with their areas."""
    from matplotlib.lines import Line2D

    _set_square(axes, sides)
    if not curves:
        axes.text(0.5, 0.5, "undefined in this split", transform=axes.transAxes, color=GREY, ha="center")
        return
    names = [f"{_short(curve['label'])} {curve[key]:.3f}" for curve in curves[: len(COLORS)]]
    lines: list[tuple[str, str]] = list(zip(names, COLORS, strict=False))
    if len(curves) > len(lines):
        lines.append((f"{len(curves) - len(lines)} more", FAINT))
    legend = axes.legend(
        handles=[Line2D([], [], color=color, linewidth=2.0, label="curve") for _, color in lines],
        loc=corner, fontsize=FONT_SIZE - 1, frameon=False, labelcolor=INK, title=_AREAS[key],
        title_fontsize=FONT_SIZE - 1, alignment="left",
    )  # fmt: skip
    legend.get_title().set_color(GREY)
    for text, (name, _) in zip(legend.get_texts(), lines, strict=True):
        text.set(text=name, parse_math=False)


def _set_square(axes, names: tuple[str, str]) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xlabel(names[0], fontsize=FONT_SIZE, color=GREY)
    axes.set_ylabel(names[1], fontsize=FONT_SIZE, color=GREY)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME_LETTERS else name[: MAX_NAME_LETTERS - 1] + "…"
