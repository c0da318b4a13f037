"""Restoring of train states: verified against the manifest, placed on any number of devices.

Each process reads by itself, a bounded group of leaves at a time, and of leaves that
several processes saved only the pieces that its devices need. All processes agree on the checkpoint: one that any
of them finds damaged is set aside for all.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdp.checkpoint.arrays import compile_checksums, read_leaves
from jaxdp.checkpoint.manifest import (
    Manifest,
    check_not_deleted,
    check_resumes,
    committed_steps,
    find_damage,
    manifest_digest,
    read_manifest,
)
from jaxdp.checkpoint.names import DAMAGED_MARK, free_name
from jaxdp.checkpoint.retention import CheckPlace
from jaxdp.checkpoint.sync_parts import FIELD, sync_parts, without_parts
from jaxdp.errors import DamageFound, UserError
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.parallel.host_blocks import local_range, place_leaf, true_shapes
from jaxdp.parallel.layout import REPLICATED, replicated_layout
from jaxdp.state import TrainState
from jaxdp.trees import named_leaves
from jaxdp.typing import PyTree


def restore(
    checkpoint: Path, abstract_state: TrainState, layout: TrainState | None = None, *, check_files: bool = True
) -> TrainState:
    """Restores a train state with the shardings of `abstract_state`, on any number of devices.

    Of the strategy's own state (`sync`), only the parts are restored that fit; see `sync_parts`.

    Args:
        checkpoint: Directory of the checkpoint.
        abstract_state: Shapes, dtypes and shardings of the state, as the devices store it.
        layout: Layout of its leaves; None: all have their true shapes.
        check_files: Whether the files are compared with the manifest; False after a check just before.

    Returns:
        The state; a part of `sync` that does not fit is missing.

    Raises:
        DamageFound: Files or restored values differ from those that were saved.
        UserError: The checkpoint has another model; the message shows both sides.
    """
    manifest = _whole_manifest(checkpoint, check_files=check_files)
    check_resumes(checkpoint, manifest)
    of_state: TrainState = replicated_layout(abstract_state) if layout is None else layout
    parts = sync_parts(manifest.leaves, true_shapes(abstract_state, of_state))
    target, of_target = without_parts(abstract_state, parts), without_parts(of_state, parts)
    dropped = tuple(f"{FIELD}{part}/" for part in parts.dropped)
    leaves = [leaf for leaf in manifest.leaves if not f"{leaf['path']}/".startswith(dropped)]
    leaves = _without_frozen(leaves, target)
    check_same_arrays(checkpoint, leaves, true_shapes(target, of_target))
    state = _read(checkpoint, manifest, target, of_target)
    expected = {leaf["path"]: leaf["checksum"] for leaf in leaves}
    found = np.concatenate(compile_checksums(target, of_target)(state)).tolist()
    for (name, _), checksum in zip(named_leaves(state), found, strict=True):
        if expected[name] != checksum:
            raise DamageFound(
                f"{name} restored from {checkpoint} is not what was saved "
                f"(checksum {checksum}, expected {expected[name]})."
            )
    return state


def _without_frozen(leaves: list[dict[str, Any]], target: TrainState) -> list[dict[str, Any]]:
    """Returns the leaves of a checkpoint without the optimizer state of frozen parameters, which earlier versions kept."""
    names = {name for name, _ in named_leaves(target)}
    parameters = {name for name, _ in named_leaves(target.params)}

    def is_of_frozen(path: str) -> bool:
        parts = path.split("/")
        of_parameter = any("/".join(parts[start:]) in parameters for start in range(1, len(parts)))
        return parts[0] == "opt_state" and path not in names and of_parameter

    return [leaf for leaf in leaves if not is_of_frozen(leaf["path"])]


def restore_part(checkpoint: Path, part: str, abstract: PyTree, layout: PyTree = None) -> PyTree:
    """Restores only `params` or `ema`, for evaluation, generation and initialisation.

    Args:
        checkpoint: Directory of the checkpoint.
        part: `params` or `ema`.
        abstract: Shapes, dtypes and shardings; a leaf without a sharding is returned as a NumPy array.
        layout: Layout of the leaves; None: all have their true shapes.

    Raises:
        DamageFound: Files differ from those that were saved.
        UserError: The checkpoint has another model, and the message shows both sides; or a
            run has deleted it meanwhile.
    """
    manifest = _whole_manifest(checkpoint)
    leaves = [leaf for leaf in manifest.leaves if leaf["path"].startswith(f"{part}/")]
    layout = jax.tree.map(lambda _: REPLICATED, abstract) if layout is None else layout
    check_same_arrays(checkpoint, leaves, {part: true_shapes(abstract, layout)})
    try:
        return _read(checkpoint, manifest, {part: abstract}, {part: layout})[part]
    except (OSError, ValueError):
        check_not_deleted(checkpoint)
        raise


def restore_latest(
    checkpoints: Path,
    abstract_state: TrainState,
    log: Callable[[str], None],
    last_step: int | None = None,
    *,
    layout: TrainState | None = None,
    control_plane: ControlPlane | None = None,
    check_place: CheckPlace = lambda: None,
    fetch: Callable[[int], None] = lambda step: None,
) -> TrainState | None:
    """Restores the newest undamaged state up to `last_step`; None if there is no checkpoint.

    A damaged checkpoint is logged, set aside as `<step>.damaged`, and the previous one
    is used. Process 0 selects the checkpoint and sets it aside if any process finds it
    damaged, so that all processes restore the same one. `fetch` is called with each
    step before its checkpoint is read, to download its files.

    Raises:
        DamageFound: All checkpoints are damaged.
        UserError: A process does not see the same checkpoint as process 0.
    """
    control_plane = control_plane or ControlPlane.single_process()
    found_any = False
    while True:
        steps = [step for step in committed_steps(checkpoints) if last_step is None or step <= last_step]
        step = control_plane.broadcast(steps[-1] if steps else None)
        if step is None:
            break
        found_any = True
        directory = checkpoints / str(step)
        state, problem = _restore_together(directory, abstract_state, layout, control_plane, fetch)
        if problem is None:
            return state
        aside = control_plane.broadcast(str(free_name(directory, DAMAGED_MARK)))
        log(f"checkpoint {step} is damaged and set aside as {aside}: {problem}")
        if control_plane.is_main_process:
            check_place()
            directory.rename(aside)
    if found_any:
        raise DamageFound(
            f"every checkpoint in {checkpoints} is damaged and set aside; run the same command again "
            "to train from the start, or restore them from a copy."
        )
    return None


def _restore_together(
    directory: Path,
    abstract_state: TrainState,
    layout: TrainState | None,
    control_plane: ControlPlane,
    fetch: Callable[[int], None],
) -> tuple[TrainState | None, str | None]:
    """Restores a state in all processes; returns it with the first problem that any process found."""
    problems = []
    try:
        fetch(int(directory.name))
    except DamageFound as damage:
        problems = [str(damage).rstrip(".")]
    _check_seen(directory, control_plane)
    if control_plane.is_main_process and not problems:
        problems = find_damage(directory)
    problems = next(filter(None, control_plane.allgather(problems)), None)
    if problems:
        return None, "; ".join(problems) + "."
    state, problem = None, None
    try:
        state = restore(directory, abstract_state, layout, check_files=False)
    except DamageFound as damage:
        problem = str(damage)
    return state, next(filter(None, control_plane.allgather(problem)), None)


def _check_seen(directory: Path, control_plane: ControlPlane) -> None:
    """Raises UserError in every process if one of them sees another checkpoint than process 0."""
    seen = control_plane.allgather(manifest_digest(directory))
    for process, digest in enumerate(seen):
        if digest != seen[0]:
            raise UserError(
                f"process {process} on {control_plane.hosts[process]} does not see checkpoint {directory} as process 0 on "
                f"{control_plane.hosts[0]} does; --workdir must be one directory that all machines share."
            )


def check_same_arrays(checkpoint: Path, leaves: Sequence[Mapping[str, Any]], abstract: PyTree) -> None:
    """Compares the arrays of a checkpoint with the expected ones, by name, shape and dtype.

    Args:
        checkpoint: Directory of the checkpoint, for the message.
        leaves: Leaves of its manifest.
        abstract: Tree of the expected arrays, with the same names.

    Raises:
        UserError: The arrays differ; the message shows both sides.
    """

    def described(path, shape, dtype):
        return path, f"{path} {dtype}{list(shape)}"

    saved = dict(described(leaf["path"], leaf["shape"], leaf["dtype"]) for leaf in leaves)
    wanted = dict(described(name, leaf.shape, leaf.dtype) for name, leaf in named_leaves(abstract))
    if saved == wanted:
        return
    only_saved = sorted(set(saved.values()) - set(wanted.values()))
    only_wanted = sorted(set(wanted.values()) - set(saved.values()))
    raise UserError(
        f"{checkpoint} holds another model or optimizer than the configuration describes.\n"
        f"  only in the checkpoint:    {_shortened(only_saved)}\n"
        f"  only in the configuration: {_shortened(only_wanted)}\n"
        "Use the configuration that it was trained with (config.json of its run), or another "
        "--workdir or init_from."
    )


def _shortened(names: list[str], limit: int = 4) -> str:
    shown = ", ".join(names[:limit]) or "nothing"
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _whole_manifest(checkpoint: Path, *, check_files: bool = True) -> Manifest:
    manifest = read_manifest(checkpoint)
    problems = find_damage(checkpoint) if check_files or manifest is None else []
    if problems:
        check_not_deleted(checkpoint)
        raise DamageFound("; ".join(problems) + ".")
    assert manifest is not None, "find_damage names a missing manifest"
    return manifest


def _read(checkpoint: Path, manifest: Manifest, target: PyTree, layout: PyTree) -> PyTree:
    """Reads the arrays of a tree and places those that have a sharding, each before the next group is read."""
    leaves, structure = jax.tree.flatten(target)
    specs = dict(
        zip((name for name, _ in named_leaves(target)), zip(leaves, jax.tree.leaves(layout), strict=True), strict=True)
    )
    needed = {
        name: None if getattr(leaf, "sharding", None) is None else local_range(leaf, of_leaf)
        for name, (leaf, of_leaf) in specs.items()
    }
    restored = {}
    for name, array, held in read_leaves(checkpoint, manifest, needed):
        leaf, of_leaf = specs[name]
        is_placed = getattr(leaf, "sharding", None) is not None
        restored[name] = place_leaf(leaf, of_leaf, array, held) if is_placed else array
    return jax.tree.unflatten(structure, [restored[name] for name in specs])
