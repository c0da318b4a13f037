"""Checkpoints loaded into host memory, and the model that `init_from` names."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdp.arguments import WEIGHTS, check_caller, check_choice, step_name
from jaxdp.checkpoint.lookup import find_checkpoint, saved_shapes, weights_key
from jaxdp.checkpoint.manifest import read_item, require_manifest
from jaxdp.checkpoint.remote_copy import local_copy
from jaxdp.checkpoint.restoring import restore_part
from jaxdp.config import from_json, read_run_config
from jaxdp.inference.trained_run import has_own_tokenizer
from jaxdp.interop.model_source import ModelSource, open_model
from jaxdp.run_config import COMPUTE_KEYS, RunConfig
from jaxdp.tasks.classification_options import DEFAULT_POOLING
from jaxdp.trees import tree_of
from jaxdp.typing import PyTree
from jaxdp.workdir import WorkDir

SOURCE_OPTIONS = {"classification": {"pooling": DEFAULT_POOLING}, "seq2seq": {"start_id": None}}
"""Task -> its keys that a run takes from the model that it starts from where they are unset, with their values without one."""


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
    path = local_copy(path, "path")
    run = WorkDir(path)
    metric = read_run_config(run.config).eval.metric if step == "best" else ""
    checkpoint = find_checkpoint(path, step, metric)
    config = from_json(read_item(checkpoint, "config"))
    manifest, part = require_manifest(checkpoint), weights_key(checkpoint, weights)
    wanted = _nested(saved_shapes(checkpoint, part), lambda path, shape, dtype: np.empty(shape, dtype))
    params = restore_part(checkpoint, part, wanted)
    return LoadedCheckpoint(manifest.step, config, params, dict(manifest.metrics))


def initial_model(config: RunConfig) -> ModelSource:
    """Opens the model that `init_from` names, or the mean of the checkpoints that `init_average` chooses.

    Raises:
        UserError: There is no model.
        DamageFound: The manifest is not what was written.
    """
    assert config.init_from is not None, "the run starts from no other model"
    return open_model(config.init_from, average=config.init_average)


def initial_checksum(config: RunConfig) -> str:
    """Computes SHA-256 of the files, or of the manifest's checksums, of the parameters that `init_from` names.

    Raises:
        UserError: There is no model.
        DamageFound: The manifest is not what was written.
    """
    return initial_model(config).parameters.identity()


def with_initial_model(config: RunConfig, saved: Mapping[str, Any] | None = None) -> RunConfig:
    """Returns a configuration whose unset keys of `model`, and of the task, are those of the model that `init_from` names.

    With `model.preset`, the preset gives the keys of `model` as it does without `init_from`.

    Args:
        config: Configuration of a run.
        saved: Configuration in the run's own checkpoint, as JSON values, in place of the source; None: a new run.

    Raises:
        UserError: There is no model, or no model of a known family.
        DamageFound: The manifest is not what was written.
    """
    config = _with_task_options(config, saved)
    if not config.init_from or config.model.preset is not None:
        return config
    if saved is None:
        known = dict(initial_model(config).model)
        if has_own_tokenizer(config):
            known.pop("vocab_size", None)  # that of the run's own tokenizer
    else:
        known = {key: value for key, value in saved["model"].items() if key not in ("preset", *COMPUTE_KEYS)}
    unset = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in known.items()
        if getattr(config.model, key, "") is None
    }
    return config.replaced(model=unset)


def _with_task_options(config: RunConfig, saved: Mapping[str, Any] | None) -> RunConfig:
    """Returns a configuration with the keys of `SOURCE_OPTIONS`: of the run's checkpoint, of the source, or the usual ones."""
    usual = SOURCE_OPTIONS.get(config.task, {})
    unset = [key for key in usual if config.task_options.get(key) is None]
    if not unset:
        return config
    if saved is not None:
        known = saved.get(config.task, {})
    else:
        known = initial_model(config).options.get(config.task, {}) if config.init_from else {}
        if has_own_tokenizer(config):
            known = {key: value for key, value in known.items() if not key.endswith("_id")}
    known = {key: value for key, value in known.items() if value is not None}
    group = {**config.task_options, **{key: known.get(key, usual[key]) for key in unset}}
    return config.replaced(task_groups={**config.task_groups, config.task: group})


def _nested(shapes: Mapping[str, tuple], make: Callable[[str, tuple[int, ...], str], Any]) -> PyTree:
    """Builds a tree of nested dicts with `make(path, shape, dtype)` as leaves."""
    return tree_of({path: make(path, shape, dtype) for path, (shape, dtype) in shapes.items()})
