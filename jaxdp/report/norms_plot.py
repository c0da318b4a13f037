"""Heat map of per-parameter norms over steps, from norms.jsonl or metrics of the group `norms`.

Matplotlib is imported inside functions, and only its `Figure` is used.
"""

from pathlib import Path

import numpy as np

from jaxdp.cache_home import set_matplotlib_directory
from jaxdp.errors import UserError
from jaxdp.report.curves import read_columns
from jaxdp.report.plotting import FONT_SIZE, GREY, INK, save

PREFIX = "norms/"
MAX_COLUMNS = 400
"""Steps of the map; more are thinned out evenly."""


def has_norms(directory: Path) -> bool:
    """Returns True if a run has logged norms."""
    return bool(_read_norms(directory))


def plot_norms(directory: Path, out: Path) -> Path:
    """Draws the logarithm of each norm, one row a metric and one column a logged step, and returns the file.

    Args:
        directory: Work directory of the run.
        out: File to write; its folder is created if missing.

    Raises:
        UserError: The run has no metrics of the group.
    """
    columns = _read_norms(directory)
    if not columns:
        raise UserError(
            f"{directory} has no norms of parameters (norms.jsonl): train with log.norms_every_steps above 0."
        )
    steps = np.unique(np.concatenate([found for found, _ in columns.values()]))
    steps = steps[np.linspace(0, len(steps) - 1, min(len(steps), MAX_COLUMNS)).astype(np.int64)]
    table = np.full((len(columns), len(steps)), np.nan)
    for row, (found, values) in zip(table, columns.values(), strict=True):
        _, mine, theirs = np.intersect1d(steps, found, return_indices=True)
        row[mine] = values[theirs]
    set_matplotlib_directory()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 1.6 + 0.17 * len(columns)), dpi=150, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log10(np.where(table > 0, table, np.nan))
    image = axes.imshow(logarithms, aspect="auto", interpolation="nearest", cmap="viridis")
    names = [name.removeprefix(PREFIX) for name in columns]
    axes.set_yticks(range(len(names)), names, fontsize=FONT_SIZE - 2, color=INK, parse_math=False)
    shown = np.unique(np.linspace(0, len(steps) - 1, 7).astype(np.int64))
    axes.set_xticks(shown, [f"{steps[index]:,}" for index in shown], fontsize=FONT_SIZE, color=GREY)
    axes.set_xlabel("step (updates)", fontsize=FONT_SIZE, color=GREY)
    axes.set_title(
        f"Norms, {directory.resolve().name}", loc="left", fontsize=FONT_SIZE + 1, color=INK, parse_math=False
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
    bar.ax.yaxis.set_major_formatter(lambda value, _position: f"{10**value:.3g}")
    bar.ax.tick_params(labelsize=FONT_SIZE - 1, colors=GREY, length=0)
    bar.outline.set_visible(False)
    out.parent.mkdir(parents=True, exist_ok=True)
    save(figure, out)
    return out


def _read_norms(directory: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns steps and values of the norms that a run has logged, by name."""
    own = directory / "norms.jsonl"  # with log.norms_every_steps; a user's hook may write to metrics.jsonl
    path = own if own.is_file() else directory / "metrics.jsonl"
    return {name: column for name, column in read_columns(path, (), PREFIX).items() if column[0].size}
