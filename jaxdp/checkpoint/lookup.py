"""Lookup of checkpoints by path, and their parameters: the part to use, and its arrays."""

import os
from pathlib import Path

from jaxdp.checkpoint.manifest import MANIFEST, read_manifest, require_manifest
from jaxdp.checkpoint.remote_copy import complete, local_copy
from jaxdp.checkpoint.retention import choose_step, without_manifest
from jaxdp.errors import DamageFound, UserError
from jaxdp.paths import check_unicode, resolved_path
from jaxdp.workdir import WorkDir


def find_checkpoint(path: str | os.PathLike[str], step: str = "latest", metric: str = "eval/loss") -> Path:
    """Finds the checkpoint that a path names: a checkpoint itself, or one of a work directory.

    Raises:
        UserError: There is none.
        DamageFound: A checkpoint that `step` may stand for has lost its manifest, so another would be taken silently.
    """
    directory = resolved_path(local_copy(path, "init_from"), "init_from")
    check_unicode(directory, "init_from")
    if read_manifest(directory) is not None:
        complete(directory)
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
    complete(checkpoints / str(chosen))
    return checkpoints / str(chosen)


def saved_shapes(checkpoint: Path, part: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """Returns path -> (shape, dtype) of the parameters in a checkpoint."""
    leaves = ((leaf["path"].partition("/"), leaf) for leaf in require_manifest(checkpoint).leaves)
    return {name: (tuple(leaf["shape"]), leaf["dtype"]) for (group, _, name), leaf in leaves if group == part}


def weights_key(checkpoint: Path, weights: str = "ema") -> str:
    """Returns the part of a checkpoint to evaluate or start from: `ema` or `params`.

    Args:
        checkpoint: Directory of the checkpoint.
        weights: ema: the moving average if the run kept one; raw: the parameters.

    Raises:
        DamageFound: The manifest is not what was written.
        UserError: A run has deleted the checkpoint meanwhile.
    """
    has_ema = any(leaf["path"].startswith("ema/") for leaf in require_manifest(checkpoint).leaves)
    return "ema" if weights == "ema" and has_ema else "params"
