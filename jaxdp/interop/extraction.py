"""Extraction of the parameters of a checkpoint to one safetensors file, under the names of jaxdp."""

import os
from pathlib import Path

from jaxdp.arguments import EXPORT_DTYPES, check_choice
from jaxdp.atomic_files import atomic_replacement
from jaxdp.checkpoint.remote_copy import read_directory
from jaxdp.config import read_run_config
from jaxdp.errors import UserError
from jaxdp.interop.averaging import AveragedCheckpoints
from jaxdp.interop.checkpoint_source import CheckpointSource
from jaxdp.interop.views import Unscanned
from jaxdp.paths import resolved_path
from jaxdp.report.terminal import print_status
from jaxdp.safetensors_file import write_arrays
from jaxdp.workdir import WorkDir


def open_weights(directory: WorkDir, step: str, weights: str, average: str | None) -> CheckpointSource:
    """Opens the parameters of a checkpoint of a run, or the mean of several.

    Args:
        directory: Work directory.
        step: latest, best or a number.
        weights: ema (where the run has it) or raw.
        average: last:K or best:K; None: one checkpoint.

    Raises:
        UserError: There is no such checkpoint, or both `step` and `average` are given.
        DamageFound: A manifest is not what was written.
    """
    directory.require_run()
    metric = read_run_config(directory.config).eval.metric
    if average is None:
        return CheckpointSource(directory.root, step=step, metric=metric, weights=weights)
    if step != "latest":
        raise UserError(f"--step={step} and --average={average} exclude each other; leave one out.")
    return AveragedCheckpoints(directory.root, average, metric=metric, weights=weights)


def check_dtype(dtype: str | None) -> None:
    """Raises UserError unless the dtype of an export is one of `EXPORT_DTYPES`, or None."""
    if dtype is not None:
        check_choice("dtype", dtype, EXPORT_DTYPES)


def extract_parameters(
    workdir: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    step: str = "latest",
    weights: str = "ema",
    dtype: str | None = None,
    average: str | None = None,
) -> Path:
    """Writes the parameters of a checkpoint to a safetensors file, one array at a time, with unrolled layers.

    Args:
        workdir: Work directory of a run or of an import.
        to: File; it must not exist.
        step: latest, best or a number.
        weights: ema (where the run has it) or raw.
        dtype: float32, bfloat16 or float16; None: that of the checkpoint.
        average: last:K or best:K averages these checkpoints; None: one checkpoint.

    Returns:
        The file.

    Raises:
        UserError: There is no such checkpoint, or the file exists.
        DamageFound: The checkpoint is not what was written.
    """
    check_dtype(dtype)
    path = resolved_path(to, "--to")
    if path.exists():
        raise UserError(f"--to={path} exists already; choose another file, or move it away.")
    saved = open_weights(read_directory(workdir), step, weights, average)
    parameters = Unscanned(saved)
    specs = {name: (dtype or spec.dtype, spec.shape) for name, spec in parameters.arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_replacement(path) as unfinished:
        write_arrays(
            unfinished,
            specs,
            lambda name: parameters.read(name).astype(specs[name][0], copy=False),
            {"format": "jaxdp"},
        )
    print_status(f"{saved.describe()} -> {path}: {len(specs)} arrays")
    return path
