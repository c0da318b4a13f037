"""Opening of a parameter source by path or Hub name: detection of its kind, and messages about what cannot be opened."""

import os
from pathlib import Path

from jaxdp.checkpoint.manifest import has_manifest
from jaxdp.checkpoint.names import leftover_step, list_directory
from jaxdp.checkpoint.remote_copy import local_copy
from jaxdp.errors import UserError
from jaxdp.interop.checkpoint_source import CheckpointSource
from jaxdp.interop.hub import local_folder
from jaxdp.interop.orbax_source import OrbaxSource, check_written, orbax_items
from jaxdp.interop.safetensors_source import SafetensorsSource, folder_files
from jaxdp.interop.source import ParameterSource
from jaxdp.paths import HUB, check_unicode, resolved_path
from jaxdp.workdir import WorkDir

KINDS = (
    "a work directory, a checkpoint, a Hugging Face folder with safetensors, a .safetensors file or an Orbax directory"
)
"""Kinds of sources, for messages."""


def source_path(text: str | os.PathLike[str], option: str = "init_from") -> Path:
    """Returns the local path that a value of `init_from` or `--from` names; a Hub name is downloaded where it is not cached.

    Raises:
        UserError: It names no path, or nothing on the Hub.
    """
    name = os.fspath(text)
    if isinstance(name, str) and name.startswith(HUB):
        return local_folder(name.removeprefix(HUB), option)
    path = resolved_path(local_copy(text, option), option)
    check_unicode(path, option)
    return path


def open_source(text: str | os.PathLike[str], option: str = "init_from") -> ParameterSource:
    """Opens the parameters at a path, `hf:NAME` or `hf:FOLDER`.

    Args:
        text: Path or name.
        option: Name of the option that gives it, for messages.

    Raises:
        UserError: There is nothing of a known kind, or it is still being written.
        DamageFound: It is not whole.
    """
    path = source_path(text, option)
    check_written(path)
    if path.suffix == ".safetensors" and path.is_file():
        return SafetensorsSource(path, [path])
    if is_checkpoint(path):
        return CheckpointSource(path)
    if path.is_dir():
        if files := folder_files(path):
            tokenizer = path / "tokenizer.json"
            return SafetensorsSource(path, files, tokenizer if tokenizer.is_file() else None)
        _check_not_pickled(path)
    if orbax_items(path):
        return OrbaxSource(path)
    raise UserError(f"{option}={os.fspath(text)} is none of these: {KINDS}; check the path.")


def is_checkpoint(path: Path) -> bool:
    """Returns True for a checkpoint of jaxdp, or a work directory that has one.

    Raises:
        UserError: The first checkpoint of a work directory is still being written.
    """
    if not path.is_dir():
        return False
    if has_manifest(path):
        return True
    checkpoints = WorkDir(path).checkpoints
    if not checkpoints.is_dir():
        return False
    entries = list_directory(checkpoints)
    unfinished = [entry for entry in entries if leftover_step(entry.name) is not None]
    if unfinished and not any(has_manifest(entry) for entry in entries):
        check_written(unfinished[0])
    return True


def _check_not_pickled(path: Path) -> None:
    """Raises UserError for a folder whose weights are pickled, which jaxdp never loads."""
    pickled = sorted(
        [*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth"), *path.glob("*.h5"), *path.glob("*.msgpack")]
    )
    if pickled and (path / "config.json").is_file():
        raise UserError(
            f"{path} has its weights as {pickled[0].name}, which is not read, since such files can run code; convert it where "
            f'transformers and torch are installed: `python -c "from transformers import AutoModel as M; '
            f"M.from_pretrained('{path}').save_pretrained('NEW_FOLDER')\"` (with the class of config.json's architectures in "
            "place of AutoModel), and copy the tokenizer files."
        )
