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

from jaxdp.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of one `manifest.json`.

    Attributes:
        step: batches consumed.
        time: Unix seconds when it was written.
        metrics: the evaluation that belongs to this step, by full name; may be empty.
        leaves: for each array {"path", "shape", "dtype", "checksum"}.
        files: for each file, by relative path, {"bytes", "sha256"}.
    """

    step: int
    time: float
    metrics: Mapping[str, float]
    leaves: list[dict[str, Any]]
    files: Mapping[str, Mapping[str, Any]]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Commits the checkpoint: durable, then renamed into place."""
    body = {"format": FORMAT, **dataclasses.asdict(manifest)}
    text = json.dumps(body | {"digest": _digest(body)}, indent=1)
    temporary = directory / (MANIFEST + ".tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, directory / MANIFEST)


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of a checkpoint; None where there is none or it is damaged."""
    try:
        body = json.loads((directory / MANIFEST).read_bytes())
        digest = body.pop("digest")
        format_found = body.pop("format")
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, AttributeError, TypeError):
        return None
    if digest != _digest({"format": format_found, **body}):
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
    """
    return json.loads((checkpoint / item / "metadata").read_text())


def describe_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a checkpoint, by relative path."""
    return {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, MANIFEST + ".tmp")
    }


def find_damage(directory: Path) -> list[str]:
    """Every way in which the files differ from the manifest, one sentence each."""
    manifest = read_manifest(directory)
    if manifest is None:
        return [f"{directory / MANIFEST} is missing or damaged"]
    problems = []
    found = describe_files(directory)
    for name, expected in manifest.files.items():
        if name not in found:
            problems.append(f"{directory / name} is missing")
        elif found[name]["bytes"] != expected["bytes"]:
            problems.append(
                f"{directory / name} has {found[name]['bytes']} bytes, {expected['bytes']} were written"
            )
        elif found[name] != dict(expected):
            problems.append(f"{directory / name} has another SHA-256 than when it was written")
    problems += [f"{directory / name} was not written by this run" for name in found.keys() - manifest.files.keys()]
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


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
