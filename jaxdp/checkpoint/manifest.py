"""Manifest of a checkpoint, `manifest.json`: commit marker and checksums.

A checkpoint `checkpoints/<step>/` counts only if Orbax has committed it and it has
a manifest. The manifest is written last, by atomic rename. It has the size and
SHA-256 of every file, the name, shape, dtype and on-device checksum of every
array, the metrics of the step, and its own digest, which reveals damage to itself.
"""

import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdp.atomic_files import atomic_replacement, fsync_path
from jaxdp.checkpoint.files import Unreadable, changed_files, file_sha256, read_file, reading
from jaxdp.checkpoint.names import list_directory, step_of
from jaxdp.errors import DamageFound, UserError
from jaxdp.json_files import nullify_non_finite, parse_json

MANIFEST = "manifest.json"
FORMAT = 2
READABLE_FORMATS = (1, 2)
"""Format 1 has neither `kind` nor `pieces`: a whole train state in one item."""

STATE = "state"
"""Kind of a checkpoint that a run resumes from."""

PARAMS = "params"
"""Kind of a checkpoint that holds parameters only."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Content of a `manifest.json`.

    Attributes:
        step: Number of batches consumed.
        time: Time of the save in Unix seconds.
        metrics: Evaluation of this step by full name; may be empty; None for numbers that
            are not finite.
        leaves: {"path", "shape", "dtype", "checksum"} of each array.
        files: Relative path -> {"bytes", "sha256"} of each file.
        run_files: Name -> {"bytes", "sha256"} of vocabularies next to `checkpoints/`, such as
            `tokenizer.json`; None: saved by a version of jaxdp that did not record them.
        metric_specs: Full name -> {"unit", "higher_is_better"} of evaluation metrics; None:
            saved by a version of jaxdp that did not record them.
        kind: `STATE`, or `PARAMS` for a checkpoint of parameters only.
        pieces: Path of a leaf -> {"axis", "ranges"} for each leaf that several processes saved: "ranges" has the
            item -> [start, stop] along the axis. Leaves without an entry are whole in the item `state`.
    """

    step: int
    time: float
    metrics: Mapping[str, float | None]
    leaves: list[dict[str, Any]]
    files: Mapping[str, Mapping[str, Any]]
    run_files: Mapping[str, Mapping[str, Any]] | None = None
    metric_specs: Mapping[str, Mapping[str, Any]] | None = None
    kind: str = STATE
    pieces: Mapping[str, Mapping[str, Any]] | None = None

    @property
    def num_bytes(self) -> int:
        """Size of the checkpoint: bytes of its files, without this one."""
        return sum(file["bytes"] for file in self.files.values())


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes the manifest durably, which commits the checkpoint.

    The content, the rename and the directory entries are on disk when this returns, so
    that an older checkpoint can be deleted even if the power fails.
    """
    fields = {name: value for name, value in dataclasses.asdict(manifest).items() if value is not None}
    with atomic_replacement(directory / MANIFEST, fsync=True) as temporary:
        temporary.write_text(_text({"format": FORMAT, **fields}), encoding="utf-8")
    for changed in (directory, directory.parent):
        fsync_path(changed)


def manifest_digest(directory: Path) -> str | None:
    """Returns the SHA-256 of the manifest, damaged or not; None if it is missing."""
    try:
        return file_sha256(directory / MANIFEST)
    except FileNotFoundError:
        return None
    except Unreadable as failure:
        return str(failure)


def record_metrics(directory: Path, metrics: Mapping[str, float]) -> None:
    """Adds the metrics of a later evaluation to a checkpoint that was saved without them."""
    manifest = require_manifest(directory)
    write_manifest(directory, dataclasses.replace(manifest, metrics=nullify_non_finite(metrics)))


def read_manifest(directory: Path) -> Manifest | None:
    """Reads the manifest of a checkpoint; None if it is missing or damaged."""
    path = directory / MANIFEST
    try:
        text = read_file(path).decode()
        body = parse_json(text)
        del body["digest"]
        # Compared as text, since a changed digit may parse as the same number.
        if text != _text(body):
            return None
        format_found = body.pop("format")
    except (Unreadable, FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError):
        return None
    if format_found not in READABLE_FORMATS:
        raise UserError(
            f"{path} has format {format_found}, this version of jaxdp reads {FORMAT} and lower; use the version that "
            "wrote it."
        )
    return _checked_manifest(body)


def require_manifest(directory: Path) -> Manifest:
    """Reads the manifest of a checkpoint, which must have one.

    Raises:
        DamageFound: The manifest is missing or damaged.
        UserError: A run has deleted the checkpoint meanwhile.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        check_not_deleted(directory)
        raise DamageFound(f"{directory / MANIFEST} is missing or damaged.")
    return manifest


def check_resumes(checkpoint: Path, manifest: Manifest) -> None:
    """Raises UserError if a checkpoint holds parameters only, from which no run continues."""
    if manifest.kind == PARAMS:
        raise UserError(
            f"{checkpoint} holds parameters only, so no run continues from it; train in another --workdir with "
            f"init_from={checkpoint.parent.parent}."
        )


def check_not_deleted(checkpoint: Path) -> None:
    """Raises UserError if the checkpoint is gone; a run renames a checkpoint before it deletes its files."""
    if not checkpoint.is_dir():
        raise UserError(
            f"{checkpoint} was deleted while it was read, probably by the run that trains there; run the same command again."
        )


def _checked_manifest(body: Mapping[str, Any]) -> Manifest | None:
    """Builds a manifest without the fields of later versions; None if a field has a wrong type."""
    known = {field.name: body[field.name] for field in dataclasses.fields(Manifest) if field.name in body}
    is_valid = (
        known.keys() >= {"step", "time", "metrics", "leaves", "files"}
        and _is_count(known["step"])
        and isinstance(known["time"], int | float)
        and isinstance(known["metrics"], dict)
        and all(isinstance(value, int | float | None) for value in known["metrics"].values())
        and isinstance(known["leaves"], list)
        and all(map(_is_leaf, known["leaves"]))
        and all(_are_files(known[name]) for name in ("files", "run_files") if name in known)
        and _are_metric_specs(known.get("metric_specs", {}))
        and isinstance(known.get("kind", STATE), str)
        and _are_pieces(known.get("pieces", {}))
    )
    return Manifest(**known) if is_valid else None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_leaf(leaf: Any) -> bool:
    return (
        isinstance(leaf, dict)
        and leaf.keys() >= {"path", "shape", "dtype", "checksum"}
        and isinstance(leaf["path"], str)
        and isinstance(leaf["dtype"], str)
        and isinstance(leaf["shape"], list)
        and all(map(_is_count, leaf["shape"]))
    )


def _are_files(files: Any) -> bool:
    return isinstance(files, dict) and all(
        isinstance(file, dict) and _is_count(file.get("bytes")) and isinstance(file.get("sha256"), str)
        for file in files.values()
    )


def _are_metric_specs(specs: Any) -> bool:
    return isinstance(specs, dict) and all(
        isinstance(spec, dict) and isinstance(spec.get("unit"), str) and isinstance(spec.get("higher_is_better"), bool)
        for spec in specs.values()
    )


def _are_pieces(pieces: Any) -> bool:
    return isinstance(pieces, dict) and all(
        isinstance(leaf, dict)
        and _is_count(leaf.get("axis"))
        and isinstance(leaf.get("ranges"), dict)
        and all(
            isinstance(part, list) and len(part) == 2 and all(map(_is_count, part)) for part in leaf["ranges"].values()
        )
        for leaf in pieces.values()
    )


def read_item(checkpoint: Path, item: str) -> dict[str, Any]:
    """Reads a JSON item of a checkpoint: `data`, `config` or `provenance`.

    Orbax's JSON handler stores it in a plain file, so reading it starts no backend.

    Raises:
        DamageFound: The file is missing or damaged.
        UserError: A run has deleted the checkpoint meanwhile.
    """
    manifest = require_manifest(checkpoint)
    name = f"{item}/metadata"
    path = checkpoint / name
    try:
        content = read_file(path)
    except (Unreadable, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        check_not_deleted(checkpoint)
        raise DamageFound(f"{path} is missing or not what was written.") from error
    written = manifest.files.get(name)
    if written is None or hashlib.sha256(content).hexdigest() != written["sha256"]:
        raise DamageFound(f"{path} is missing or not what was written.")
    try:
        value = parse_json(content)
    except ValueError as error:
        raise DamageFound(f"{path} is not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise DamageFound(f"{path} holds no JSON object.")
    return value


def find_damage(directory: Path, *, read_contents: bool = True) -> list[str]:
    """Returns a sentence for each file of a checkpoint that is missing or changed.

    Files that are not in the manifest are ignored: file managers and network file
    systems create such files.

    Args:
        directory: Directory of the checkpoint.
        read_contents: Whether contents are compared; otherwise only existence and sizes.
    """
    manifest = read_manifest(directory)
    if manifest is None:
        return [f"{directory / MANIFEST} is missing or damaged"]
    return changed_files(directory, manifest.files, read_contents=read_contents)


def committed_steps(checkpoints: Path) -> list[int]:
    """Returns the steps of all checkpoints in `checkpoints/` that have a manifest, ascending."""
    steps = ((step_of(path.name), path) for path in list_directory(checkpoints))
    return sorted(step for step, path in steps if step is not None and has_manifest(path))


def has_manifest(directory: Path) -> bool:
    """Returns True if a checkpoint has a manifest, damaged or not.

    Raises:
        UserError: The directory cannot be read for lack of permission.
    """
    path = directory / MANIFEST
    if directory.is_symlink() and not directory.exists():  # a broken or circular link
        return False
    try:
        with reading(path):
            return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except Unreadable:
        return True  # reading it finds the damage


def _text(body: Mapping[str, Any]) -> str:
    """Returns the content of the file: the body and its digest."""
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({**body, "digest": digest}, indent=1, allow_nan=False)
