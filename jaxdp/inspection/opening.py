"""Kinds of inspected paths: a checkpoint of jaxdp, or a parameter source of another format."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jaxdp.checkpoint.manifest import MANIFEST, committed_steps
from jaxdp.checkpoint.names import list_directory, step_of
from jaxdp.checkpoint.remote_copy import complete, place_of
from jaxdp.checkpoint.retention import choose_step
from jaxdp.config import read_run_config
from jaxdp.errors import UserError
from jaxdp.interop.hub import HUB, folder_here, hub_url
from jaxdp.interop.open_source import open_source
from jaxdp.interop.orbax_source import orbax_items
from jaxdp.interop.remote_orbax import open_remote_orbax
from jaxdp.interop.remote_source import is_url, open_remote
from jaxdp.interop.source import ParameterSource
from jaxdp.paths import resolved_path
from jaxdp.workdir import WorkDir

Read = TypeVar("Read")
"""Result of reading a checkpoint."""


def read_steadily(path: str, step: str, read: Callable[[Path], Read]) -> Read | None:
    """Reads a checkpoint; if a run deletes it meanwhile, reads the one that `step` selects next.

    Returns:
        What `read` returns; None: there is no checkpoint of jaxdp.
    """
    if is_url(path) or path.startswith(HUB):
        return None
    where = resolved_path(path, "PATH")
    while (checkpoint := _find_checkpoint(where, step)) is not None:
        try:
            return read(checkpoint)
        except UserError:
            if checkpoint.is_dir() or checkpoint == where:
                raise
    return None


def _find_checkpoint(where: Path, step: str) -> Path | None:
    """Returns the checkpoint at `where`, or the one of a work directory that `step` selects; None if there is none."""
    if (where / MANIFEST).is_file():
        complete(where)
        return where
    run = WorkDir(where.parent if where.is_dir() and committed_steps(where) else where)
    if is_run(run) and not committed_steps(run.checkpoints):
        raise UserError(
            f"PATH={place_of(where)} is a run that has no checkpoint yet: wait for the first save, or train again if the run has "
            "ended."
        )
    if not run.checkpoints.is_dir() or _is_foreign(run):
        return None
    metric = read_run_config(run.config).eval.metric if step == "best" else ""
    checkpoint = run.checkpoints / str(choose_step(run.checkpoints, step, metric))
    complete(checkpoint)
    return checkpoint


def is_run(run: WorkDir) -> bool:
    """Returns whether a start has come so far that it recorded its configuration and its code."""
    return run.config.is_file() and run.provenance.is_file()


def _is_foreign(run: WorkDir) -> bool:
    return not run.config.exists() and bool(_orbax_steps(run.checkpoints))


def open_foreign(path: str, step: str = "latest") -> ParameterSource:
    """Opens a path of another format: of the steps of an Orbax manager the newest, or the one of this number.

    Raises:
        UserError: It is of no known kind.
        DamageFound: It is not whole.
    """
    if is_url(path):
        return open_remote_orbax(path) or open_remote(path)
    if path.startswith(HUB):
        name = path.removeprefix(HUB)
        folder = folder_here(name, "PATH")
        return open_remote(hub_url(name)) if folder is None else open_source(folder, "PATH")
    run = WorkDir(path, "PATH")
    for directory in (run.root, *([run.checkpoints] if _is_foreign(run) else [])):
        if steps := _orbax_steps(directory):
            chosen = steps[-1] if step == "latest" else step_of(step)
            if chosen not in steps:
                listed = ", ".join(map(str, steps))
                raise UserError(f"--step={step}: {directory} has no such checkpoint; it has {listed} and `latest`.")
            return open_source(directory / str(chosen), "PATH")
    return open_source(path, "PATH")


def _orbax_steps(directory: Path) -> list[int]:
    """Returns the steps below the directory of an Orbax manager; none for other directories and for those of jaxdp."""
    if not directory.is_dir() or committed_steps(directory):
        return []
    steps = {step_of(path.name): path for path in list_directory(directory)}
    return sorted(step for step, path in steps.items() if step is not None and orbax_items(path))
