"""Checkpoints by path: lookup, loading into host memory, and initial parameters for `init_from`."""

import dataclasses
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
from jaxdp.interop.model_source import open_model
from jaxdp.interop.source import ParameterSource
from jaxdp.interop.views import Scanned, Unscanned
from jaxdp.model import HEAD_PARAMETERS, POSITION_EMBEDDING
from jaxdp.model.lora import is_adapter
from jaxdp.report.terminal import quantity
from jaxdp.run_config import COMPUTE_KEYS, RunConfig
from jaxdp.trees import is_scanned, leaf_name, named_leaves, tree_of
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
        taken: Paths that came from the source.
        new: Paths that the source does not have, as they were initialised.
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
    """Reads the parameters that `init_from` names, its moving average where it has one, into a model of any task.

    The body of both models must be the same; their heads may differ. Of learned
    positions the first are taken where the source has more.

    Args:
        path: Value of `init_from`; see `jaxdp.interop.open_source`.
        fresh: Parameters as they were initialised, in their true shapes.

    Raises:
        UserError: There is no model, or its body has other names or shapes; both sides are shown.
        DamageFound: It is not what was written.
    """
    parameters = _as_layered(open_model(path).parameters, fresh)
    initialised = dict(named_leaves(fresh))
    shapes = _shapes_of(parameters)
    _check_body(path, shapes, initialised)
    heads = _heads(shapes)
    kept = {
        name
        for name in shapes.keys() & initialised.keys()
        if name not in heads or shapes[name][0] == initialised[name].shape
    }
    placed = {}
    for name, array in parameters.read_all():  # goes to the devices as it is read
        if name in kept:
            leaf = initialised[name]
            first = array[: leaf.shape[0]] if leaf.ndim else array  # all but learned positions have the same length
            first = np.asarray(first, leaf.dtype)
            placed[name] = jax.make_array_from_callback(
                leaf.shape, leaf.sharding, lambda index, values=first: values[index]
            )
    return StartingParameters(
        jax.tree.map_with_path(lambda path, leaf: placed.get(leaf_name(path), leaf), fresh),
        tuple(sorted(kept)),
        tuple(sorted(initialised.keys() - kept)),
        tuple(sorted(shapes.keys() - kept)),
    )


def _as_layered(parameters: ParameterSource, like: PyTree) -> ParameterSource:
    """Returns the parameters with scanned or unrolled layers, as a tree has them."""
    return Scanned(parameters) if any(is_scanned(name) for name, _ in named_leaves(like)) else Unscanned(parameters)


def _shapes_of(parameters: ParameterSource) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (spec.shape, spec.dtype) for name, spec in parameters.arrays.items()}


def check_initial(path: str, params: PyTree) -> None:
    """Checks that `start_from` would find the body of this model, before anything is compiled for it.

    Args:
        path: As for `start_from`.
        params: The new model's parameters, or their shapes.

    Raises:
        UserError: There is no model, or its body has other names or shapes; both sides are shown.
        DamageFound: The manifest is not what was written.
    """
    parameters = _as_layered(open_model(path).parameters, params)
    _check_body(path, _shapes_of(parameters), dict(named_leaves(params)))


def initial_checksum(path: str) -> str:
    """Computes SHA-256 of the files, or of the manifest's checksums, of the parameters that `start_from` takes.

    Raises:
        UserError: There is no model.
        DamageFound: The manifest is not what was written.
    """
    return open_model(path).parameters.identity()


def with_initial_model(config: RunConfig, saved: Mapping[str, Any] | None = None) -> RunConfig:
    """Returns a configuration whose unset keys of `model` are those of the model that `init_from` names.

    With `model.preset`, the preset gives them as it does without `init_from`.

    Args:
        config: Configuration of a run.
        saved: Configuration in the run's own checkpoint, as JSON values, in place of the source; None: a new run.

    Raises:
        UserError: There is no model, or no model of a known family.
        DamageFound: The manifest is not what was written.
    """
    if not config.init_from or config.model.preset is not None:
        return config
    if saved is None:
        known = open_model(config.init_from).model
    else:
        known = {key: value for key, value in saved["model"].items() if key not in ("preset", *COMPUTE_KEYS)}
    unset = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in known.items()
        if getattr(config.model, key, "") is None
    }
    return config.replaced(model=unset)


def _check_body(path: str, shapes: Mapping[str, tuple], initialised: Mapping[str, jax.Array]) -> None:
    """Raises UserError unless everything below the heads, except new adapters, is there in the same shapes."""
    problems = []
    new_adapters = {name for name in initialised.keys() - shapes.keys() if is_adapter(name)}
    for name in sorted((initialised.keys() | shapes.keys()) - _heads(initialised) - _heads(shapes) - new_adapters):
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
