"""Checkpoints by their path: found, loaded for other programs, or started from."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdp.arguments import WEIGHTS, check_caller, check_choice, step_name
from jaxdp.checkpoint.manifest import MANIFEST, read_item, read_manifest, require_manifest
from jaxdp.checkpoint.restoring import restore_part
from jaxdp.checkpoint.retention import choose_step, without_manifest
from jaxdp.config import from_json, read_run_config
from jaxdp.errors import DamageFound, UserError
from jaxdp.model import HEAD_PARAMETERS, POSITION_EMBEDDING
from jaxdp.paths import check_unicode, resolved_path
from jaxdp.report.terminal import quantity
from jaxdp.run_config import RunConfig
from jaxdp.trees import leaf_name, named_leaves
from jaxdp.typing import PyTree
from jaxdp.workdir import WorkDir


@dataclasses.dataclass(frozen=True)
class LoadedCheckpoint:
    """One checkpoint in host memory.

    Attributes:
        step: updates that made it.
        config: the run's configuration.
        params: nested dicts of NumPy arrays, float32.
        metrics: its evaluation, by full name; empty if there was none.
    """

    step: int
    config: RunConfig
    params: PyTree
    metrics: dict[str, float | None]


def load_checkpoint(path: str | os.PathLike, *, step: str | int = "latest", weights: str = "ema") -> LoadedCheckpoint:
    """A checkpoint for other programs to use.

    Args:
        path: a work directory, or a checkpoint in it.
        step: latest, best or a number; for work directories.
        weights: ema (where the run has it) or raw.

    Raises:
        UserError: there is none.
        DamageFound: it is not what was written.
    """
    check_caller("jaxdp.load_checkpoint")
    step = step_name(step)
    check_choice("weights", weights, WEIGHTS)
    run = WorkDir(path)
    metric = read_run_config(run.config).eval.metric if step == "best" else ""
    checkpoint = find_checkpoint(path, step, metric)
    config = from_json(read_item(checkpoint, "config"))
    manifest, part = require_manifest(checkpoint), weights_key(checkpoint, weights)
    wanted = _nested(_saved_shapes(checkpoint, part), lambda path, shape, dtype: np.empty(shape, dtype))
    params = restore_part(checkpoint, part, wanted)
    return LoadedCheckpoint(manifest.step, config, params, dict(manifest.metrics))


def find_checkpoint(path: str, step: str = "latest", metric: str = "eval/loss") -> Path:
    """The checkpoint that a path stands for: a checkpoint itself, or one of a work directory.

    Raises:
        UserError: there is none.
        DamageFound: one that `step` may stand for has lost its manifest, so another would be taken without a word.
    """
    directory = resolved_path(path, "init_from")
    check_unicode(directory, "init_from")
    if read_manifest(directory) is not None:
        return directory
    checkpoints = WorkDir(directory).checkpoints
    if not checkpoints.is_dir():
        raise UserError(f"{path} is neither a work directory with checkpoints nor a checkpoint.")
    chosen = choose_step(checkpoints, step, metric)
    if step in ("latest", "best"):
        for lost in without_manifest(checkpoints):
            if step == "best" or int(lost.name) > chosen:
                raise DamageFound(
                    f"{lost} has no {MANIFEST}, so nothing tells whether it is whole: restore that file from a copy, choose "
                    f"another checkpoint (--step={chosen}), or continue the run, which sets it aside."
                )
    return checkpoints / str(chosen)


@dataclasses.dataclass(frozen=True)
class StartingParameters:
    """Parameters to start from.

    Attributes:
        params: of the new model.
        taken: paths that came from the checkpoint.
        new: paths that the checkpoint does not have, as they were drawn.
        dropped: paths that the new model does not have.
    """

    params: PyTree
    taken: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def describe(self) -> str:
        """For a person: what was taken, what is new, what was dropped."""
        sizes = {name: np.prod(leaf.shape) for name, leaf in named_leaves(self.params)}
        numbers = quantity(int(sum(sizes[name] for name in self.taken)))
        parts = [f"took {len(self.taken)} parameters ({numbers} numbers)"]
        parts += [f"{what}: {', '.join(names)}" for what, names in (("new", self.new), ("dropped", self.dropped)) if names]
        return "; ".join(parts)


def start_from(path: str, fresh: PyTree) -> StartingParameters:
    """The parameters that `init_from` names, its moving average where it has one, in a model of any task.

    The body of both models must be the same; their heads may differ. Of learned
    positions the first are taken where the checkpoint has more.

    Args:
        path: a work directory, or a checkpoint in it.
        fresh: parameters as they were drawn, replicated.

    Raises:
        UserError: nothing is there, or its body has other names or shapes; both sides are shown.
        DamageFound: it is not what was written.
    """
    checkpoint = find_checkpoint(path)
    part = weights_key(checkpoint)
    drawn = dict(named_leaves(fresh))
    shapes = _saved_shapes(checkpoint, part)
    _check_body(path, shapes, drawn)
    taken = {name for name, (shape, _) in shapes.items() if name in drawn and shape == drawn[name].shape}
    longer = {name for name in shapes.keys() & drawn.keys() if name not in taken and name not in _heads(shapes)}

    def wanted(name: str, shape: tuple[int, ...], dtype: str):
        if name in taken:  # goes to the devices as it is read
            return jax.ShapeDtypeStruct(shape, dtype, sharding=drawn[name].sharding)
        return np.empty(shape, dtype)

    saved = dict(named_leaves(restore_part(checkpoint, part, _nested(shapes, wanted))))

    def choose(path, leaf: jax.Array) -> jax.Array:
        name = leaf_name(path)
        if name in longer:
            first = saved[name][: leaf.shape[0]]
            return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: first[index])
        return saved[name] if name in taken else leaf

    kept = taken | longer
    return StartingParameters(
        jax.tree.map_with_path(choose, fresh),
        tuple(sorted(kept)),
        tuple(sorted(drawn.keys() - kept)),
        tuple(sorted(shapes.keys() - kept)),
    )


def check_initial(path: str, params: PyTree) -> None:
    """Checks that `start_from` would find the body of this model, before anything is compiled for it.

    Args:
        path: As for `start_from`.
        params: The new model's parameters, or their shapes.

    Raises:
        UserError: Nothing is there, or its body has other names or shapes; both sides are shown.
        DamageFound: The manifest is not what was written.
    """
    checkpoint = find_checkpoint(path)
    _check_body(path, _saved_shapes(checkpoint, weights_key(checkpoint)), dict(named_leaves(params)))


def initial_checksum(path: str) -> str:
    """Tells whether `start_from` takes the same parameters: SHA-256 of their names, shapes and checksums.

    Raises:
        UserError: nothing is there.
        DamageFound: the manifest is not what was written.
    """
    checkpoint = find_checkpoint(path)
    part = weights_key(checkpoint)
    leaves = [leaf for leaf in require_manifest(checkpoint).leaves if leaf["path"].partition("/")[0] == part]
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()


def _check_body(path: str, shapes: Mapping[str, tuple], drawn: Mapping[str, jax.Array]) -> None:
    """Raises UserError unless everything below the heads is there in the same shapes."""
    problems = []
    for name in sorted((drawn.keys() | shapes.keys()) - _heads(drawn) - _heads(shapes)):
        there = shapes[name][0] if name in shapes else None
        here = drawn[name].shape if name in drawn else None
        is_longer = name == POSITION_EMBEDDING and there and here and there[0] > here[0] and there[1:] == here[1:]
        if there != here and not is_longer:
            problems.append(f"{name} is {there or 'absent'} there and {here or 'absent'} here")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(
            f"init_from={path} holds another model: {'; '.join(problems[:3])}{more}. Set model.* (and data.length for "
            "positions) as in that run's config.json."
        )


def _heads(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.split("/")[0] in HEAD_PARAMETERS}


def _saved_shapes(checkpoint: Path, part: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Path -> (shape, dtype) of the parameters in a checkpoint."""
    leaves = ((leaf["path"].partition("/"), leaf) for leaf in require_manifest(checkpoint).leaves)
    return {name: (tuple(leaf["shape"]), leaf["dtype"]) for (group, _, name), leaf in leaves if group == part}


def _nested(shapes: Mapping[str, tuple], make: Callable[[str, tuple[int, ...], str], Any]) -> PyTree:
    """A tree of nested dicts with `make(path, shape, dtype)` as leaves."""
    tree: dict = {}
    for path, (shape, dtype) in shapes.items():
        *parents, last = path.split("/")
        branch = tree
        for name in parents:
            branch = branch.setdefault(name, {})
        branch[last] = make(path, shape, dtype)
    return tree


def weights_key(checkpoint: Path, weights: str = "ema") -> str:
    """`ema` or `params`: which part of a checkpoint to evaluate or start from.

    Args:
        checkpoint: its directory.
        weights: ema: the moving average if the run kept one; raw: the parameters.

    Raises:
        DamageFound: its manifest is not what was written.
        UserError: a run has deleted the checkpoint meanwhile.
    """
    has_ema = any(leaf["path"].startswith("ema/") for leaf in require_manifest(checkpoint).leaves)
    return "ema" if weights == "ema" and has_ema else "params"
