"""Parameters-only checkpoints: what imports, averages and exports write, and every command but training reads.

Such a checkpoint has the items `state` (with `params` alone) and `config`, and a manifest of kind `params`.
"""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdp.atomic_files import fsync_path
from jaxdp.checkpoint.files import describe_files
from jaxdp.checkpoint.manifest import PARAMS, Manifest, write_manifest
from jaxdp.checkpoint.names import SAVING_MARK
from jaxdp.checkpoint.orbax_settings import per_process, suppress_event_loop_errors
from jaxdp.checksum import leaf_checksums
from jaxdp.errors import UserError
from jaxdp.json_files import nullify_non_finite
from jaxdp.trees import named_leaves
from jaxdp.typing import PyTree


def save_parameters(
    checkpoints: Path,
    step: int,
    params: PyTree,
    config: Mapping[str, Any],
    *,
    metrics: Mapping[str, float] | None = None,
    run_files: Mapping[str, Mapping[str, Any]] | None = None,
    metric_specs: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Writes a checkpoint of parameters only: complete, or not at all.

    Args:
        checkpoints: Directory that gets `<step>/`; created if missing.
        step: Number of updates that the parameters have seen.
        params: Nested dicts of NumPy or JAX arrays of true shape.
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
    checkpoints.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f"{step}{SAVING_MARK}0")
    shutil.rmtree(unfinished, ignore_errors=True)
    state = {"params": params}
    options = per_process()
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=options))
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(jax.tree.map(np.asarray, state)), config=ocp.args.JsonSave(dict(config))
    )
    with suppress_event_loop_errors(), ocp.Checkpointer(handler, multiprocessing_options=options) as writer:
        writer.save(unfinished, args=items)
    checksum = jax.jit(leaf_checksums)
    leaves = [
        {
            "path": name,
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
            "checksum": int(checksum([leaf])[0]),  # one at a time, so that a device holds one
        }
        for name, leaf in named_leaves(state)
    ]
    manifest = Manifest(
        step, time.time(), nullify_non_finite(metrics or {}), leaves, describe_files(unfinished), run_files,
        metric_specs, kind=PARAMS,
    )  # fmt: skip
    write_manifest(unfinished, manifest)
    unfinished.rename(directory)
    fsync_path(checkpoints)
    return directory
