"""Checkpoints by path: lookup, loading into host memory, and initial parameters for `init_from`."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxdp.arguments import WEIGHTS, check_caller, check_choice, step_name
from jaxdp.checkpoint.lookup import find_checkpoint, saved_shapes, weights_key
from jaxdp.checkpoint.manifest import read_item, require_manifest
from jaxdp.checkpoint.restoring import restore_part
from jaxdp.config import from_json, read_run_config
from jaxdp.errors import UserError
from jaxdp.model import HEAD_PARAMETERS, POSITION_EMBEDDING
from jaxdp.report.terminal import quantity
from jaxdp.run_config import RunConfig
from jaxdp.trees import leaf_name, named_leaves, tree_of
from jaxdp.typing import PyTree
from jaxdp.workdir import WorkDir


@dataclasses.dataclass(frozen=True)
class LoadedCheckpoint:
    """Checkpoint in host memory.

    Attributes:
        step: Number of updates.
        config: Configuration of the run.
        params: Nested dicts of NumPy arrays, float32.
        metrics: Metrics of its evaluation by full name; empty if there was none.
    """

    step: int
    config: RunConfig
    params: PyTree
    metrics: dict[str, float | None]


def load_checkpoint(
    path: str | os.PathLike[str], *, step: str | int = "latest", weights: str = "ema"
) -> LoadedCheckpoint:
    """Loads a checkpoint into host memory, for use in other programs; starts no backend.

    Args:
        path: Work directory, or a checkpoint in it.
        step: latest, best or a number; of work directories only.
        weights: ema (where the run has it) or raw.

    Raises:
        UserError: There is no checkpoint.
        DamageFound: It is not what was written.
    """
    check_caller("jaxdp.load_checkpoint")
    step = step_name(step)
    check_choice("weights", weights, WEIGHTS)
    run = WorkDir(path)
    metric = read_run_config(run.config).eval.metric if step == "best" else ""
    checkpoint = find_checkpoint(path, step, metric)
    config = from_json(read_item(checkpoint, "config"))
    manifest, part = require_manifest(checkpoint), weights_key(checkpoint, weights)
    wanted = _nested(saved_shapes(checkpoint, part), lambda path, shape, dtype: np.empty(shape, dtype))
    params = restore_part(checkpoint, part, wanted)
    return LoadedCheckpoint(manifest.step, config, params, dict(manifest.metrics))


@dataclasses.dataclass(frozen=True)
class StartingParameters:
    """Initial parameters of a run with `init_from`.

    Attributes:
        params: Parameters of the new model.
        taken: Paths that came from the checkpoint.
        new: Paths that the checkpoint does not have, as they were initialised.
        dropped: Paths that the new model does not have.
    """

    params: PyTree
    taken: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]

    def describe(self) -> str:
        """Returns a readable summary: parameters that were taken, are new, or were dropped."""
        sizes = {name: np.prod(leaf.shape) for name, leaf in named_leaves(self.params)}
        numbers = quantity(int(sum(sizes[name] for name in self.taken)))
        parts = [f"took {len(self.taken)} parameters ({numbers} numbers)"]
        parts += [
            f"{what}: {', '.join(names)}" for what, names in (("new", self.new), ("dropped", self.dropped)) if names
        ]
        return "; ".join(parts)


def start_from(path: str, fresh: PyTree) -> StartingParameters:
    """Restores the parameters that `init_from` names, its moving average where it has one, in a model of any task.

    The body of both models must be the same; their heads may differ. Of learned
    positions the first are taken where the checkpoint has more.

    Args:
        path: Work directory, or a checkpoint in it.
        fresh: Parameters as they were initialised, replicated.

    Raises:
        UserError: There is no checkpoint, or its body has other names or shapes; both sides are shown.
        DamageFound: It is not what was written.
    """
    checkpoint = find_checkpoint(path)
    part = weights_key(checkpoint)
    initialised = dict(named_leaves(fresh))
    shapes = saved_shapes(checkpoint, part)
    _check_body(path, shapes, initialised)
    taken = {name for name, (shape, _) in shapes.items() if name in initialised and shape == initialised[name].shape}
    longer = {name for name in shapes.keys() & initialised.keys() if name not in taken and name not in _heads(shapes)}

    def wanted(name: str, shape: tuple[int, ...], dtype: str):
        if name in taken:  # goes to the devices as it is read
            return jax.ShapeDtypeStruct(shape, dtype, sharding=initialised[name].sharding)
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
        tuple(sorted(initialised.keys() - kept)),
        tuple(sorted(shapes.keys() - kept)),
    )


def check_initial(path: str, params: PyTree) -> None:
    """Checks that `start_from` would find the body of this model, before anything is compiled for it.

    Args:
        path: As for `start_from`.
        params: The new model's parameters, or their shapes.

    Raises:
        UserError: There is no checkpoint, or its body has other names or shapes; both sides are shown.
        DamageFound: The manifest is not what was written.
    """
    checkpoint = find_checkpoint(path)
    _check_body(path, saved_shapes(checkpoint, weights_key(checkpoint)), dict(named_leaves(params)))


def initial_checksum(path: str) -> str:
    """Computes SHA-256 of the names, shapes and checksums of the parameters that `start_from` takes.

    Raises:
        UserError: There is no checkpoint.
        DamageFound: The manifest is not what was written.
    """
    checkpoint = find_checkpoint(path)
    part = weights_key(checkpoint)
    leaves = [leaf for leaf in require_manifest(checkpoint).leaves if leaf["path"].partition("/")[0] == part]
    return hashlib.sha256(json.dumps(leaves, sort_keys=True).encode()).hexdigest()


def _check_body(path: str, shapes: Mapping[str, tuple], initialised: Mapping[str, jax.Array]) -> None:
    """Raises UserError unless everything below the heads is there in the same shapes."""
    problems = []
    for name in sorted((initialised.keys() | shapes.keys()) - _heads(initialised) - _heads(shapes)):
        there = shapes[name][0] if name in shapes else None
        here = initialised[name].shape if name in initialised else None
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


def _nested(shapes: Mapping[str, tuple], make: Callable[[str, tuple[int, ...], str], Any]) -> PyTree:
    """Builds a tree of nested dicts with `make(path, shape, dtype)` as leaves."""
    return tree_of({path: make(path, shape, dtype) for path, (shape, dtype) in shapes.items()})
