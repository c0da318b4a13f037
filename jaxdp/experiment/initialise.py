"""Parameters of another run to start from."""

from pathlib import Path

from jaxdp.checkpoint.manifest import read_manifest
from jaxdp.checkpoint.retention import choose_step
from jaxdp.checkpoint.store import restore_part
from jaxdp.errors import UserError
from jaxdp.typing import PyTree
from jaxdp.workdir import WorkDir


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
    return restore_part(find_checkpoint(path), chosen_weights(find_checkpoint(path)), abstract_params)


def chosen_weights(checkpoint: Path, weights: str = "ema") -> str:
    """`ema` or `params`: which part of a checkpoint to evaluate or start from.

    Args:
        checkpoint: its directory.
        weights: ema: the moving average if the run kept one; raw: the parameters.
    """
    leaves = read_manifest(checkpoint).leaves
    has_ema = any(leaf["path"].startswith("ema/") for leaf in leaves)
    return "ema" if weights == "ema" and has_ema else "params"
