"""First difference between the checkpoints of two runs: the step, the leaves, and the change of each parameter.

Checksums of the leaves in the manifests, which are of true shapes under every strategy, say which leaves differ. Only
parameters that differ in the first such checkpoint are read; if the layers of one run are scanned and those of the other
are not, all parameters are read.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdp.checkpoint.manifest import MANIFEST, Manifest, committed_steps, find_damage, read_manifest
from jaxdp.checkpoint.remote_copy import complete, place_of
from jaxdp.errors import UserError
from jaxdp.inspection.data_flow import data_flow_order
from jaxdp.inspection.differences import changes
from jaxdp.interop.checkpoint_source import CheckpointSource

_PARTS = ("params", "ema", "opt_state", "sync")
"""Parts of a train state with many leaves; all others are counters."""

_IN_LAYERS = re.compile(r"(^|/)(layers|layer_\d+)/")
"""Path of a leaf of a layer, scanned or unrolled."""

Leaves = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass
class _Comparison:
    """Comparison of two checkpoints.

    Attributes:
        parts: Part of the state -> numbers of leaves: equal, different, only in the first, only in the second.
        differing: Paths of the leaves that both have and that differ.
        changes: Changes of the parameters; None: they were not read.
    """

    parts: dict[str, dict[str, int]]
    differing: list[str]
    changes: list[dict[str, Any]] | None = None

    @property
    def is_equal(self) -> bool:
        """Equality of all leaves that can be compared."""
        return all(count == 0 for counts in self.parts.values() for kind, count in counts.items() if kind != "equal")

    @property
    def first_leaf(self) -> str | None:
        """Path of the first leaf that differs, parameters in the order of data flow before all others."""
        if self.changes:
            return f"params/{self.changes[0]['path']}"
        return min(self.differing, key=_leaf_order, default=None)


def compare_checkpoints(first: Path, second: Path, problems: list[str], *, read_arrays: bool = True) -> dict[str, Any]:
    """Compares all checkpoints of the same step in two directories.

    Args:
        first: Directory of checkpoints; it may be missing.
        second: Another one.
        problems: Receives a sentence for each checkpoint or part that cannot be compared.
        read_arrays: Whether parameters are read, for their relative change.

    Returns:
        {"steps", "last_equal_step", "step", "parts", "first_leaf", "changes"}: "steps" are those that both runs have,
        "step" is the first at which leaves differ, or None, "last_equal_step" the last one before it. "parts" has
        {"equal", "different", "only_first", "only_second"} of each part of the train state in that checkpoint: numbers
        of leaves. "first_leaf" is the first leaf that differs, parameters in the order of data flow before all others.
        "changes" has {"path", "relative", "max", "dtypes"} of each parameter that differs, in that order, layer by
        layer; it is None if they were not read.
    """
    shared = sorted(set(committed_steps(first)) & set(committed_steps(second)))
    result: dict[str, Any] = {
        "steps": [], "last_equal_step": None, "step": None, "parts": {}, "first_leaf": None, "changes": None
    }  # fmt: skip
    for step in shared:
        pair = [directory / str(step) for directory in (first, second)]
        old, new = (_manifest(checkpoint, problems) for checkpoint in pair)
        if old is None or new is None:
            continue
        if result["step"] is not None:
            result["steps"].append(step)
            continue
        found = _compared(pair, _leaves(old), _leaves(new), problems, read_arrays=read_arrays)
        if found is None:
            continue
        result["steps"].append(step)
        if found.is_equal:
            result["last_equal_step"] = step
        else:
            result |= {"step": step, "parts": found.parts, "first_leaf": found.first_leaf, "changes": found.changes}
    return result


def _manifest(checkpoint: Path, problems: list[str]) -> Manifest | None:
    try:
        manifest = read_manifest(checkpoint)
    except UserError as error:  # of a later version
        problems.append(str(error))
        return None
    if manifest is None and checkpoint.is_dir():  # a live run may have deleted it meanwhile
        problems.append(
            f"{place_of(checkpoint / MANIFEST)} is missing or damaged, so this checkpoint was not compared."
        )
    return manifest


def _leaves(manifest: Manifest) -> dict[str, Mapping[str, Any]]:
    return {leaf["path"]: leaf for leaf in manifest.leaves}


def _compared(
    pair: Sequence[Path], old: Leaves, new: Leaves, problems: list[str], *, read_arrays: bool
) -> _Comparison | None:
    """Compares two checkpoints by checksums, and reads the parameters that differ; None: they cannot be compared."""
    if _has_scanned(old) == _has_scanned(new):
        found = _by_checksum(old, new)
        names = {path.removeprefix("params/") for path in found.differing if path.startswith("params/")}
        if read_arrays and names:
            found.changes = _read_changes(pair, names, problems)
        return found
    found = _by_checksum(*(_outside_layers(leaves) for leaves in (old, new)))
    found.changes = _read_changes(pair, None, problems) if read_arrays else None
    if found.changes is None:
        problems.append(f"{pair[0]} and {pair[1]} were not compared: layers are scanned in one run only.")
        return None
    problems.append(
        f"{pair[0]} and {pair[1]}: layers are scanned in one run only, so of layers only parameters were compared."
    )
    found.parts["params"]["different"] = len(found.changes)
    return found


def _has_scanned(leaves: Leaves) -> bool | None:
    """Returns whether layers are scanned; None: there are no layers."""
    kinds = {match[2] == "layers" for path in leaves if (match := _IN_LAYERS.search(path))}
    return max(kinds) if kinds else None


def _outside_layers(leaves: Leaves) -> Leaves:
    return {path: leaf for path, leaf in leaves.items() if not _IN_LAYERS.search(path)}


def _by_checksum(old: Leaves, new: Leaves) -> _Comparison:
    parts: dict[str, dict[str, int]] = {}
    differing = []
    for path in {**old, **new}:
        if path not in old or path not in new:
            kind = "only_second" if path in new else "only_first"
        elif all(old[path][key] == new[path][key] for key in ("shape", "dtype", "checksum")):
            kind = "equal"
        else:
            kind = "different"
            differing.append(path)
        counts = parts.setdefault(_part(path), dict.fromkeys(("equal", "different", "only_first", "only_second"), 0))
        counts[kind] += 1
    return _Comparison(parts, differing)


def _part(path: str) -> str:
    part = path.partition("/")[0]
    return part if part in _PARTS else "counters"


def _leaf_order(path: str) -> tuple[Any, ...]:
    part = _part(path)
    return (_PARTS.index(part) if part in _PARTS else len(_PARTS), data_flow_order(path.partition("/")[2] or path))


def _read_changes(pair: Sequence[Path], names: set[str] | None, problems: list[str]) -> list[dict[str, Any]] | None:
    """Reads parameters of two checkpoints and compares them layer by layer.

    Args:
        pair: Both checkpoints.
        names: Parameters to read; None: all.
        problems: Receives a sentence if they cannot be read.

    Returns:
        Changes in the order of data flow; None: the parameters cannot be read.
    """
    from jaxdp.interop.views import Unscanned  # imports jax, which checksums do without

    try:
        for checkpoint in pair:
            complete(checkpoint)
        damage = [sentence for checkpoint in pair for sentence in find_damage(checkpoint) if checkpoint.is_dir()]
        if damage:  # would be taken for a difference of the runs
            problems.append(f"{'; '.join(damage)}, so no arrays of this checkpoint were compared.")
            return None
        old, new = (Unscanned(CheckpointSource(checkpoint, weights="raw")) for checkpoint in pair)
        common = {
            name for name, spec in old.arrays.items() if name in new.arrays and spec.shape == new.arrays[name].shape
        }
        if names is not None:
            common = {name for name in common if name in names or _IN_LAYERS.sub(r"\1layers/", name) in names}
        found = changes(old, new, common)
    except UserError as error:
        deleted = [checkpoint for checkpoint in pair if not checkpoint.is_dir()]  # meanwhile, by a live run
        why = f"{deleted[0]} was deleted while it was read" if deleted else str(error).removesuffix(".")
        problems.append(f"{why}, so no arrays of this checkpoint were compared.")
        return None
    return sorted(found, key=lambda change: data_flow_order(change["path"]))
