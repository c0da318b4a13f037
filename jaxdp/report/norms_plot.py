"""Heat maps of per-parameter norms over steps, from norms.jsonl or metrics of the group `norms`.

Matplotlib is imported inside functions, and only its `Figure` is used.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxdp.cache_home import set_matplotlib_directory
from jaxdp.errors import UserError
from jaxdp.report.curves import read_columns
from jaxdp.report.plotting import FONT_SIZE, GREY, INK, save

PREFIX = "norms/"
TITLES = {"params": "parameters", "grads": "gradients", "updates": "updates", "ratios": "updates / parameters"}
"""Kinds of norms that jaxdp writes, and the titles of their maps."""

MAX_COLUMNS = 400
"""Steps of a map; more are thinned out evenly."""

ROW_INCHES = 0.17
"""Height of a row with a name."""

MAX_INCHES = 24.0
"""Height of the maps; of more rows than fit, every n-th has its name."""

Column = tuple[np.ndarray, np.ndarray]
"""Steps and values of a metric."""


def has_norms(directory: Path) -> bool:
    """Returns True if a run has logged norms."""
    return bool(_read_norms(directory))


def plot_norms(directory: Path, out: Path) -> Path:
    """Draws the logarithm of each norm, one map a kind, one row a parameter and one column a logged step; returns the file.

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
    kinds = _by_kind(columns)
    names = list(dict.fromkeys(name for rows in kinds.values() for name in rows))
    set_matplotlib_directory()
    from matplotlib.figure import Figure

    height = min(ROW_INCHES * len(names), MAX_INCHES)
    figure = Figure(
        figsize=(11 if len(kinds) > 1 else 9, 1.9 + height), dpi=150, facecolor="white", layout="constrained"
    )
    figure.suptitle(
        f"Norms, {directory.resolve().name}", x=0.01, ha="left", fontsize=FONT_SIZE + 1, color=INK, parse_math=False
    )
    for axes, (title, rows) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds.items(), strict=True):
        _draw(axes, [rows.get(name) for name in names], steps, title)
        axes.set_yticks([])
    every = int(np.ceil(ROW_INCHES * len(names) / height))
    figure.axes[0].set_yticks(
        range(0, len(names), every), names[::every], fontsize=FONT_SIZE - 2, color=INK, parse_math=False
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    save(figure, out)
    return out


def _by_kind(columns: Mapping[str, Column]) -> dict[str, dict[str, Column]]:
    """Returns the columns by title of their map and name of their row; names that are not of jaxdp are one map."""
    kinds: dict[str, dict[str, Column]] = {}
    for full_name, column in columns.items():
        kind, _, name = full_name.removeprefix(PREFIX).partition("/")
        title, row = (TITLES[kind], name) if kind in TITLES and name else ("", full_name.removeprefix(PREFIX))
        kinds.setdefault(title, {})[row] = column
    return kinds


def _draw(axes, rows: Sequence[Column | None], steps: np.ndarray, title: str) -> None:
    """Draws one map with its scale below it."""
    table = np.full((len(rows), len(steps)), np.nan)
    for row, column in zip(table, rows, strict=True):
        if column is not None:
            _, mine, theirs = np.intersect1d(steps, column[0], return_indices=True)
            row[mine] = column[1][theirs]
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log10(np.where(table > 0, table, np.nan))
    image = axes.imshow(logarithms, aspect="auto", interpolation="nearest", cmap="viridis")
    shown = np.unique(np.linspace(0, len(steps) - 1, 4).astype(np.int64))
    axes.set_xticks(shown, [f"{steps[index]:,}" for index in shown], fontsize=FONT_SIZE - 1, color=GREY)
    axes.set_xlabel("step (updates)", fontsize=FONT_SIZE - 1, color=GREY)
    axes.set_title(title, loc="left", fontsize=FONT_SIZE, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, location="top", aspect=30, pad=0.01)
    bar.ax.xaxis.set_major_formatter(lambda value, _position: f"{10**value:.2g}")
    bar.ax.locator_params(nbins=4)
    bar.ax.tick_params(labelsize=FONT_SIZE - 2, colors=GREY, length=0)
    bar.outline.set_visible(False)


def _read_norms(directory: Path) -> dict[str, Column]:
    """Returns steps and values of the norms that a run has logged, by name."""
    own = directory / "norms.jsonl"  # with log.norms_every_steps; a user's hook may write to metrics.jsonl
    path = own if own.is_file() else directory / "metrics.jsonl"
    return {name: column for name, column in read_columns(path, (), PREFIX).items() if column[0].size}
