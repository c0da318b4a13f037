"""Parameters-only checkpoints: what imports, averages and exports write, and every command but training reads.

Such a checkpoint has its arrays in `parameters.safetensors`, the item `config`, and a manifest of kind `params`.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdp.atomic_files import fsync_path
from jaxdp.checkpoint.files import describe_files
from jaxdp.checkpoint.manifest import PARAMS, Manifest, write_manifest
from jaxdp.checkpoint.names import SAVING_MARK, shards_file
from jaxdp.checksum import array_checksum
from jaxdp.errors import UserError
from jaxdp.json_files import nullify_non_finite
from jaxdp.safetensors_file import map_arrays, write_arrays

ITEM = "parameters"
"""Item with the arrays; the manifest lists it as the only piece of each of them."""


def save_parameters(
    checkpoints: Path,
    step: int,
    specs: Mapping[str, tuple[str, Iterable[int]]],
    make: Callable[[str], np.ndarray],
    config: Mapping[str, Any],
    *,
    metrics: Mapping[str, float] | None = None,
    run_files: Mapping[str, Mapping[str, Any]] | None = None,
    metric_specs: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Writes a checkpoint of parameters only, one array at a time: complete, or not at all.

    Args:
        checkpoints: Directory that gets `<step>/`; created if missing.
        step: Number of updates that the parameters have seen.
        specs: Path -> (dtype, shape) of each parameter in its true shape.
        make: Function from a path to its array, which is called once for each.
        config: Resolved configuration, as JSON values.
        metrics: Evaluation of the parameters by full name; None: there was none.
        run_files: Files of the run; see `Manifest`.
        metric_specs: Declarations of the metrics; see `Manifest`.

    Returns:
        Directory of the checkpoint.

    Raises:
        UserError: The checkpoint exists already.
        OSError: It cannot be written.
    """
    directory = checkpoints.resolve() / str(step)
    if directory.exists():
        raise UserError(f"{directory} exists already; choose another directory, or move it away.")
    unfinished = directory.with_name(f"{step}{SAVING_MARK}0")
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "config").mkdir(parents=True)
    (unfinished / "config" / "metadata").write_text(json.dumps(config), encoding="utf-8")
    leaves = []

    def make_leaf(path: str) -> np.ndarray:
        array = make(path.removeprefix(f"{PARAMS}/"))
        leaf = {"path": path, "shape": list(array.shape), "dtype": str(array.dtype)}
        leaves.append(leaf | {"checksum": array_checksum(array)})
        return array

    paths = {f"{PARAMS}/{name}": (dtype, tuple(shape)) for name, (dtype, shape) in specs.items()}
    write_arrays(shards_file(unfinished, ITEM), paths, make_leaf)
    pieces = {path: {"axis": 0, "ranges": {ITEM: [0, shape[0] if shape else 1]}} for path, (_, shape) in paths.items()}
    manifest = Manifest(
        step, time.time(), nullify_non_finite(metrics or {}), leaves, describe_files(unfinished), run_files,
        metric_specs, kind=PARAMS, pieces=pieces,
    )  # fmt: skip
    write_manifest(unfinished, manifest)
    unfinished.rename(directory)
    fsync_path(checkpoints)
    return directory


def map_parameters(checkpoint: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Maps the parameters of such a checkpoint from its file; yields path and values of each."""
    for path, array in map_arrays(shards_file(checkpoint, ITEM)):
        yield path.removeprefix(f"{PARAMS}/"), array
