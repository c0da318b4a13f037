"""What a classifier does on a split as a picture: confusion, curves, calibration.

The numbers are those of the report that `jaxdp.tasks.classification_metrics` makes,
as JSON brings them back. Matplotlib is imported when a picture is drawn, not before,
and only its `Figure` is used: no window, no global state.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdp.errors import UserError
from jaxdp.plotting import COLORS, FONT_SIZE, GREY, GRID, INK

NAMED_LABELS = 30  # of a confusion matrix that are named on its sides
WRITTEN_LABELS = 12  # up to so many, the counts are written into its cells
NAME_LETTERS = 16
DARK = 0.55  # share of a row from which white letters are read better


def plot_evaluation(report: Mapping[str, Any], out: Path) -> Path:
    """Draws the report of an evaluation as one PNG.

    Of one label an example: confusion matrix, ROC, precision against recall, and
    reliability; of several labels precision, recall and F1 of each instead of the
    matrix; of numbers the predicted against the true ones.

    Args:
        report: `Summary.report` of a classification.
        out: file to write; its folder is made if missing.

    Returns:
        `out`.

    Raises:
        UserError: the report is of no kind that can be drawn, or of no examples.
    """
    from matplotlib.figure import Figure

    panels = _PANELS.get(report.get("kind", ""))
    if panels is None:
        raise UserError(
            f"There is nothing to draw in an evaluation of kind {report.get('kind')!r}; expected one of: "
            f"{', '.join(_PANELS)}."
        )
    if not report["num_examples"]:
        raise UserError("The evaluation has no examples, so there is nothing to draw: check its split.")
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
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="png")
    return out


def _draw_confusion(axes, report: Mapping[str, Any]) -> None:
    """Cells are coloured by their share of the row, so that rare labels are seen too."""
    counts = np.array(report["confusion_matrix"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xlabel("predicted", fontsize=FONT_SIZE, color=GREY)
    axes.set_ylabel("true", fontsize=FONT_SIZE, color=GREY)
    if len(counts) <= NAMED_LABELS:
        places = np.arange(len(counts))
        names = list(map(_short, report["labels"]))
        axes.set_xticks(places, names, parse_math=False, rotation=90 if len(counts) > 4 else 0)
        axes.set_yticks(places, names, parse_math=False)
    else:
        axes.set(xticks=[], yticks=[])
    if len(counts) <= WRITTEN_LABELS:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > DARK else INK
            axes.text(column, row, f"{count}", ha="center", va="center", color=color, fontsize=FONT_SIZE)


def _draw_roc(axes, report: Mapping[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    for curve, color in _colored(report["roc"]):
        axes.plot(curve["false_positive_rate"], curve["true_positive_rate"], color=color, linewidth=1.5)
    _finish_curves(axes, report["roc"], "auc", ("false positive rate", "true positive rate"), "lower right")


def _draw_precision_recall(axes, report: Mapping[str, Any]) -> None:
    for curve, color in _colored(report["precision_recall"]):
        axes.plot(curve["recall"], curve["precision"], color=color, linewidth=1.5)
    curves = report["precision_recall"]
    _finish_curves(axes, curves, "average_precision", ("recall", "precision"), "lower left")


def _draw_calibration(axes, report: Mapping[str, Any]) -> None:
    """Right answers against confidence; the bars below say how many answers there are."""
    bins = report["calibration"]["bins"]
    confidence = [each["confidence"] for each in bins]
    counts = np.array([each["count"] for each in bins], np.float64)
    axes.bar(confidence, 0.25 * counts / counts.max(), width=0.045, color=GRID)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    axes.plot(confidence, [each["accuracy"] for each in bins], color=COLORS[0], linewidth=1.5, marker="o", markersize=4)
    _set_square(axes, ("confidence", "share that is right"))
    axes.text(
        0.03, 0.94, f"calibration error {report['calibration']['error']:.3f}", transform=axes.transAxes,
        color=COLORS[0], fontsize=FONT_SIZE,
    )  # fmt: skip


def _draw_classes(axes, report: Mapping[str, Any]) -> None:
    """Precision, recall and F1 of each label, the commonest on top."""
    classes = sorted(report["classes"], key=lambda row: row["support"])[-NAMED_LABELS:]
    places = np.arange(len(classes))
    for key, color, marker in (("precision", COLORS[0], "<"), ("recall", COLORS[1], ">"), ("f1", COLORS[2], "o")):
        axes.plot([row[key] for row in classes], places, marker, color=color, markersize=5, label=key)
    axes.set_xlim(-0.02, 1.02)
    axes.set_yticks(places, [_short(row["label"]) for row in classes], parse_math=False)
    axes.grid(axis="both", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(fontsize=FONT_SIZE, frameon=False, labelcolor=INK, loc="lower left")


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
        "Precision, recall and F1 of each label": _draw_classes,
        "ROC of each label": _draw_roc,
        "Precision against recall": _draw_precision_recall,
        "Reliability": _draw_calibration,
    },
    "regression": {"Predicted against true": _draw_pairs},
}
"""Kind of the report -> title and drawing of each part."""


def _colored(curves: Sequence[Mapping[str, Any]]):
    """Each curve with its colour; there are more curves than colours to tell apart."""
    return ((curve, COLORS[number % len(COLORS)]) for number, curve in enumerate(curves))


def _finish_curves(
    axes, curves: Sequence[Mapping[str, Any]], key: str, names: tuple[str, str], corner: str
) -> None:
    """Both axes from 0 to 1, and a legend of the first curves with their areas."""
    from matplotlib.lines import Line2D

    _set_square(axes, names)
    if not curves:
        axes.text(0.5, 0.5, "undefined in this split", transform=axes.transAxes, color=GREY, ha="center")
        return
    shown = list(_colored(curves))[: len(COLORS)]
    legend = axes.legend(
        handles=[Line2D([], [], color=color, linewidth=2.0, label="curve") for _, color in shown],
        loc=corner, fontsize=FONT_SIZE - 1, frameon=False, labelcolor=INK,
    )  # fmt: skip
    for text, (curve, _) in zip(legend.get_texts(), shown, strict=True):
        text.set(text=f"{_short(curve['label'])} {curve[key]:.3f}", parse_math=False)


def _set_square(axes, names: tuple[str, str]) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xlabel(names[0], fontsize=FONT_SIZE, color=GREY)
    axes.set_ylabel(names[1], fontsize=FONT_SIZE, color=GREY)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _short(name: str) -> str:
    return name if len(name) <= NAME_LETTERS else name[: NAME_LETTERS - 1] + "…"
