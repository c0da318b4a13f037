"""Differences between two checkpoints of any formats: configurations, trees, and the relative change of each array."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from jaxdp.inspection.describe import describe
from jaxdp.inspection.fingerprint import open_parameters, with_our_names
from jaxdp.interop.source import ParameterSource
from jaxdp.nested import differences as nested_differences

_CHUNK = 2**20
"""Elements that are converted to float64 at once."""


def compare(first: str, second: str, step: str = "latest") -> dict[str, Any]:
    """Compares the parameters and configurations at two paths.

    Args:
        first: Path of any kind.
        second: Path of any kind.
        step: Checkpoint of a work directory: latest, best or a number.

    Returns:
        {"first", "second", "names", "config", "only_first", "only_second", "shapes", "equal", "changes"}: "config" has
        [key, value, value] of each difference if both are of one format, "shapes" [path, array, array] of each array of
        another shape, "equal" the number of arrays with equal values, "changes" {"path", "relative", "max", "dtypes"} of
        each other one, the largest relative change first. It is |second - first| / |first| in the Euclidean norm.

    Raises:
        UserError: A path is of no known kind.
        DamageFound: An array cannot be read.
    """
    opened = [open_parameters(path, step) for path in (first, second)]
    named = [with_our_names(source) for source in opened]
    (old, _), (new, _) = named
    common = [name for name in old.arrays if name in new.arrays]
    shapes = [[name, *map(str, pair)] for name in common if (pair := _specs(old, new, name))[0].shape != pair[1].shape]
    unlike = {name for name, *_ in shapes}
    compared = set(common) - unlike
    found = changes(old, new, compared)
    return {
        "first": opened[0].describe(),
        "second": opened[1].describe(),
        "names": [names for _, names in named],
        "config": _config_differences(first, second, step),
        "only_first": sorted(old.arrays.keys() - new.arrays.keys()),
        "only_second": sorted(new.arrays.keys() - old.arrays.keys()),
        "shapes": shapes,
        "equal": len(compared) - len(found),
        "changes": sorted(found, key=by_change),
    }


def changes(old: ParameterSource, new: ParameterSource, names: Collection[str]) -> list[dict[str, Any]]:
    """Reads arrays of two sources, in pieces, and compares their values.

    Args:
        old: First source.
        new: Second source.
        names: Names of the arrays to read, which both sources have in one shape.

    Returns:
        {"path", "relative", "max", "dtypes"} of each that differs, in the order of the first source.

    Raises:
        UserError: A file cannot be read.
        DamageFound: It is not what was written.
    """
    found = []
    for name, pieces, others in _pairs(old, new):
        if name not in names:
            continue
        relative, largest = _change(pieces, others)
        if largest != 0.0:
            dtypes = [spec.dtype for spec in _specs(old, new, name)]
            found.append({"path": name, "relative": relative, "max": largest, "dtypes": dtypes})
    return found


def _pairs(
    old: ParameterSource, new: ParameterSource
) -> Iterator[tuple[str, Iterator[np.ndarray], Iterator[np.ndarray]]]:
    """Yields the arrays of the first source with those of the second one; scanned layers are read once if the orders agree."""
    if list(old.arrays) == list(new.arrays):
        for (name, pieces), (_, others) in zip(old.streams(), new.streams(), strict=True):
            yield name, pieces, others
        return
    for name, pieces in old.streams():
        if name in new.arrays:
            yield name, pieces, new.pieces(name)


def _specs(old: ParameterSource, new: ParameterSource, name: str):
    return old.arrays[name], new.arrays[name]


def by_change(change: Mapping[str, Any]) -> float:
    """Returns a sort key that puts the largest relative change first, and NaN before all."""
    return -math.inf if math.isnan(change["relative"]) else -change["relative"]


def _change(old: Iterator[np.ndarray], new: Iterator[np.ndarray]) -> tuple[float, float]:
    """Returns the relative change and the largest absolute one; NaN and infinities at the same places are equal."""
    squares, base, largest = 0.0, 0.0, 0.0
    for before, after in _aligned(old, new):
        same = (before == after) | (np.isnan(before) & np.isnan(after))
        if same.all():
            base += float(np.square(before[np.isfinite(before)]).sum())
            continue
        # Equal infinities have no difference, though theirs is NaN.
        difference = np.subtract(after, before, out=np.zeros_like(before), where=~same)
        squares, base = squares + float(np.square(difference).sum()), base + float(np.square(before).sum())
        largest = float(np.fmax(largest, np.max(np.abs(difference)))) if not np.isnan(difference).any() else math.nan
    if largest == 0.0:
        return 0.0, 0.0
    return (math.sqrt(squares / base) if base else math.inf), largest


def _aligned(old: Iterator[np.ndarray], new: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields parts of two arrays at the same places, in float64, whatever pieces they come in."""
    left, right = np.empty(0), np.empty(0)
    while True:
        left = left if left.size else next(old, left)
        right = right if right.size else next(new, right)
        size = min(left.size, right.size, _CHUNK)
        if not size:
            return
        yield left[:size].astype(np.float64), right[:size].astype(np.float64)
        left, right = left[size:], right[size:]


def _config_differences(first: str, second: str, step: str) -> list[list[Any]]:
    old, new = describe(first, step), describe(second, step)
    is_comparable = old["config"] and new["config"] and old["kind"].endswith(new["kind"])
    return [list(each) for each in nested_differences(old["config"], new["config"])] if is_comparable else []


def as_text(found: Mapping[str, Any], *, full: bool) -> list[str]:
    """Formats a comparison, with the largest changes first; without `full` at most 40 of them."""
    lines = [f"first     {found['first']} ({found['names'][0]})", f"second    {found['second']} ({found['names'][1]})"]
    if found["config"]:
        lines += ["config", *(f"  {key}: {old} -> {new}" for key, old, new in found["config"])]
    for side in ("first", "second"):
        if only := found[f"only_{side}"]:
            shown = only if full else only[:10]
            more = [f"  and {len(only) - len(shown)} more"] if len(only) > len(shown) else []
            lines += [f"{len(only)} arrays only in the {side}", *(f"  {name}" for name in shown), *more]
    if found["shapes"]:
        lines += ["other shapes", *(f"  {name}: {old} -> {new}" for name, old, new in found["shapes"])]
    changes = found["changes"]
    lines.append(f"{found['equal']} arrays are equal, {len(changes)} differ")
    if changes:
        shown = changes if full else changes[:40]
        width = max(len("array"), *(len(change["path"]) for change in shown))
        lines.append(f"  {'array':<{width}}  {'relative':>9}  {'largest':>9}")
        for change in shown:
            dtypes = "" if len(set(change["dtypes"])) == 1 else "  " + " -> ".join(change["dtypes"])
            lines.append(f"  {change['path']:<{width}}  {change['relative']:>9.3g}  {change['max']:>9.3g}{dtypes}")
        if len(changes) > len(shown):
            lines.append(f"  and {len(changes) - len(shown)} more; --full shows all")
    return lines
