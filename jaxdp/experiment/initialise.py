"""Checkpoints by their path: found, loaded for other programs, or started from."""

import dataclasses
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from jaxdp.checkpoint.manifest import MANIFEST, read_item, read_manifest
from jaxdp.checkpoint.restoring import restore_part
from jaxdp.checkpoint.retention import choose_step
from jaxdp.config import from_json, read_run_config
from jaxdp.errors import DamageFound, UserError
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
    config: ConfigDict
    params: PyTree
    metrics: dict[str, float | None]


def load_checkpoint(path: str, *, step: str = "latest", weights: str = "ema") -> LoadedCheckpoint:
    """A checkpoint for other programs to use.

    Args:
        path: a work directory, or a checkpoint in it.
        step: latest, best or a number; for work directories.
        weights: ema (where the run has it) or raw.

    Raises:
        UserError: there is none.
        DamageFound: it is not what was written.
    """
    run = WorkDir(path)
    metric = read_run_config(run.config).eval.metric if step == "best" else ""
    checkpoint = find_checkpoint(path, step, metric)
    config = from_json(read_item(checkpoint, "config"))
    manifest, part = read_manifest(checkpoint), chosen_weights(checkpoint, weights)
    wanted: dict = {}
    for leaf in manifest.leaves:
        group, *names = leaf["path"].split("/")
        if group == part:
            branch = wanted
            for name in names[:-1]:
                branch = branch.setdefault(name, {})
            branch[names[-1]] = np.empty(leaf["shape"], leaf["dtype"])
    params = restore_part(checkpoint, part, wanted)
    return LoadedCheckpoint(manifest.step, config, params, dict(manifest.metrics))


def find_checkpoint(path: str, step: str = "latest", metric: str = "eval/loss") -> Path:
    """The checkpoint that a path stands for: a checkpoint itself, or one of a work directory.

    Raises:
        UserError: there is none.
    """
    directory = Path(path).expanduser().resolve()
    if read_manifest(directory) is not None:
        return directory
    checkpoints = WorkDir(directory).checkpoints
    if not checkpoints.is_dir():
        raise UserError(f"{path} is neither a work directory with checkpoints nor a checkpoint.")
    return checkpoints / str(choose_step(checkpoints, step, metric))


def starting_parameters(path: str, abstract_params: PyTree) -> PyTree:
    """The parameters that `init_from` names, its moving average where it has one.

    Raises:
        UserError: nothing is there, or its parameters have other names or shapes.
    """
    checkpoint = find_checkpoint(path)
    return restore_part(checkpoint, chosen_weights(checkpoint), abstract_params)


def chosen_weights(checkpoint: Path, weights: str = "ema") -> str:
    """`ema` or `params`: which part of a checkpoint to evaluate or start from.

    Args:
        checkpoint: its directory.
        weights: ema: the moving average if the run kept one; raw: the parameters.

    Raises:
        DamageFound: its manifest is not what was written.
    """
    manifest = read_manifest(checkpoint)
    if manifest is None:
        raise DamageFound(f"{checkpoint / MANIFEST} is damaged.")
    has_ema = any(leaf["path"].startswith("ema/") for leaf in manifest.leaves)
    return "ema" if weights == "ema" and has_ema else "params"
