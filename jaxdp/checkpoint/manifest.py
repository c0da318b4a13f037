"""The manifest: what makes a directory a checkpoint.

A checkpoint `checkpoints/<step>/` counts only when Orbax has committed it and
`manifest.json` is there. The manifest is written last, by atomic rename, and
holds the size and SHA-256 of every file, the name, shape, dtype and checksum
of every array as it was on the device, and the metrics of that step. It also
carries its own digest, so that damage to it is seen like any other.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdp.errors import DamageFound, UserError

MANIFEST = "manifest.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of one `manifest.json`.

    Attributes:
        step: batches consumed.
        time: Unix seconds when it was written.
        metrics: the evaluation that belongs to this step, by full name; may be
            empty; None for what was not finite.
        leaves: for each array {"path", "shape", "dtype", "checksum"}.
        files: for each file, by relative path, {"bytes", "sha256"}.
    """

    step: int
    time: float
    metrics: Mapping[str, float | None]
    leaves: list[dict[str, Any]]
    files: Mapping[str, Mapping[str, Any]]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Commits the checkpoint: durable, then renamed into place."""
    temporary = directory / (MANIFEST + ".tmp")
    with open(temporary, "w") as file:
        file.write(_text({"format": FORMAT, **dataclasses.asdict(manifest)}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, directory / MANIFEST)


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a checkpoint; None where there is none or it is damaged."""
    try:
        text = (directory / MANIFEST).read_text()
        body = json.loads(text)
        del body["digest"]
        # Compared as text: a changed digit that reads as the same number is damage too.
        if text != _text(body):
            return None
        format_found = body.pop("format")
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    if format_found != FORMAT:
        raise UserError(
            f"{directory / MANIFEST} has format {format_found}, this version of jaxdp reads {FORMAT}; "
            "use the version that wrote it."
        )
    return Manifest(**body)


def read_item(checkpoint: Path, item: str) -> dict[str, Any]:
    """A JSON item of a checkpoint: `data` or `config`.

    Orbax's JSON handler keeps it in a plain file; reading that needs no backend.

    Raises:
        DamageFound: the file is not the one that was written.
    """
    manifest = read_manifest(checkpoint)
    if manifest is None:
        raise DamageFound(f"{checkpoint / MANIFEST} is missing or damaged.")
    name = f"{item}/metadata"
    path = checkpoint / name
    if not path.is_file() or _sha256(path) != manifest.files[name]["sha256"]:
        raise DamageFound(f"{path} is missing or not what was written.")
    return json.loads(path.read_text())


def describe_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a checkpoint, by relative path."""
    return {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def find_damage(directory: Path) -> list[str]:
    """Every file that is missing or changed, one sentence each.

    Files that are not in the manifest do no harm: file managers and network
    file systems leave theirs anywhere.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        return [f"{directory / MANIFEST} is missing or damaged"]
    problems = []
    for name, expected in manifest.files.items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif path.stat().st_size != expected["bytes"]:
            problems.append(f"{path} has {path.stat().st_size} bytes, {expected['bytes']} were written")
        elif _sha256(path) != expected["sha256"]:
            problems.append(f"{path} has another SHA-256 than when it was written")
    return problems


def committed_steps(checkpoints: Path) -> list[int]:
    """Steps of all checkpoints in `checkpoints/` that have a manifest, ascending."""
    if not checkpoints.is_dir():
        return []
    return sorted(
        int(path.name)
        for path in checkpoints.iterdir()
        if path.name.isdigit() and (path / MANIFEST).is_file()
    )


def _text(body: Mapping[str, Any]) -> str:
    """The file's content: the body and its digest."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps(body | {"digest": digest}, indent=1, allow_nan=False)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
