"""Plot of step time and efficiency against the number of devices: predicted, one curve a target, or measured.

Matplotlib is imported inside functions, and only its `Figure` is used.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxdp.cache_home import set_matplotlib_directory
from jaxdp.errors import UserError
from jaxdp.report.plotting import COLORS, FONT_SIZE, GREY, GRID, INK

Rows = Sequence[Mapping[str, float]]
"""Rows with `devices`, `step_secs` and `efficiency`."""

FORMATS = (".png", ".pdf", ".svg")


def check_picture(out: Path, option: str = "--plot", formats: Sequence[str] = FORMATS) -> None:
    """Raises UserError unless the name of a picture ends in one of the formats."""
    if out.suffix.lower() not in formats:
        *first, last = formats
        raise UserError(f"{option}={out} must end in {', '.join(first)} or {last}.")


def plot_scaling(curves: Mapping[str, Rows], out: Path, *, measured: bool = False) -> Path:
    """Draws step time and efficiency against the number of devices, and returns the file.

    Args:
        curves: Rows of each target, or of the runs, by its name.
        out: File to write; its folder is created if missing.
        measured: Whether the rows are of runs with one global batch, not predictions for one batch a device.
    """
    set_matplotlib_directory()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), dpi=150, facecolor="white", layout="constrained")
    times, shares = figure.subplots(1, 2)
    for color, (name, rows) in zip(COLORS * len(curves), curves.items(), strict=False):
        devices = [row["devices"] for row in rows]
        style = {"color": color, "linewidth": 1.8, "marker": "o", "markersize": 4, "label": name}
        times.plot(devices, [1e3 * row["step_secs"] for row in rows], **style)
        shares.plot(devices, [100 * row["efficiency"] for row in rows], **style)
    if measured:
        axis = "devices, which share the same global batch"
        _finish(times, "Step time (ms)", axis, top=None)
        _finish(shares, "Efficiency: speed-up per device over the smallest count (%)", axis, top=None)
        shares.axhline(100, color=GREY, linewidth=0.8, linestyle=":")
    else:
        axis = "devices, each with the batch of one device as planned"
        _finish(times, "Step time at best (ms)", axis, top=None)
        _finish(shares, "Efficiency: step time of one device divided by it (%)", axis, top=104)
    times.legend(fontsize=FONT_SIZE, frameon=False, labelcolor=INK)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return out


def _finish(axes, title: str, axis: str, top: float | None) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted({float(x) for line in axes.lines for x in line.get_xdata()}))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _position: f"{value:,.0f}")
    axes.set_title(title, loc="left", fontsize=FONT_SIZE + 1, color=INK, fontweight="bold")
    axes.set_xlabel(axis, fontsize=FONT_SIZE, color=GREY)
    axes.set_ylim(0, top)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=GREY, labelsize=FONT_SIZE, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
