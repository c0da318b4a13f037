"""Proofs of integrity: record of undamaged checkpoints, kept across the starts of a run.

A proof is a digest of the size, times and inode of every file of a checkpoint whose
contents were compared with its manifest. While the proof holds, the files are
unchanged and need not be read again. A copy of a checkpoint has other times and
inodes, so it is read once.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from jaxdp.atomic_files import write_atomically
from jaxdp.checkpoint.manifest import MANIFEST, committed_steps, find_damage, read_manifest
from jaxdp.json_files import parse_json, read_regular
from jaxdp.report.terminal import print_status

_MAX_RECORD_BYTES = 2**26
"""Largest file of proofs that is read; it has 80 bytes per checkpoint."""


class Intactness:
    """Integrity check of checkpoints that reads each one once, and again when one of its files has changed."""

    def __init__(self, record: Path | None = None):
        """Creates the record.

        Args:
            record: File that keeps the proofs for the next start; None: proofs are not kept.
        """
        self._record = record
        self._proofs: dict[str, str] = _read_record(record) if record else {}
        self._recorded = dict(self._proofs)
        self._metrics: dict[Path, tuple[tuple | None, Mapping[str, float | None] | None]] = {}

    def trust(self, checkpoint: Path) -> None:
        """Records a checkpoint as intact that has just been read or written."""
        proof = _proof(checkpoint)
        if proof is not None:
            self._proofs[checkpoint.name] = proof

    def __call__(self, checkpoint: Path) -> bool:
        """Returns True if the checkpoint is undamaged."""
        proof = _proof(checkpoint)
        if proof is not None and self._proofs.get(checkpoint.name) == proof:
            return True
        self._proofs.pop(checkpoint.name, None)
        if find_damage(checkpoint) or proof is None:
            return False
        self._proofs[checkpoint.name] = proof  # computed before reading, so a change meanwhile is found next time
        return True

    def metrics(self, checkpoints: Path) -> dict[int, Mapping[str, float | None]]:
        """Returns the metrics saved with each checkpoint; reads only new or changed manifests.

        Checkpoints with a damaged manifest are left out.
        """
        known, self._metrics = self._metrics, {}
        for step in committed_steps(checkpoints):
            path = checkpoints / str(step)
            stamp = _stamp_of(path / MANIFEST)
            if known.get(path, (None,))[0] == stamp:
                self._metrics[path] = known[path]
            else:
                manifest = read_manifest(path)
                self._metrics[path] = stamp, manifest and manifest.metrics
        return {int(path.name): metrics for path, (_, metrics) in self._metrics.items() if metrics is not None}

    def record(self, checkpoints: Path) -> None:
        """Writes the proofs of the existing checkpoints; if that fails, no proofs are kept."""
        there = {str(step) for step in committed_steps(checkpoints)}
        self._proofs = {name: proof for name, proof in self._proofs.items() if name in there}
        if self._record is None or self._proofs == self._recorded:
            return
        try:
            write_atomically(self._record, json.dumps(self._proofs))
        except OSError as error:
            print_status(
                f"{self._record} cannot be written ({error.strerror}): the next start reads all kept checkpoints once more"
            )
            self._record = None
        self._recorded = dict(self._proofs)


def _read_record(path: Path) -> dict[str, str]:
    """Reads the proofs of an earlier start; none if the file is missing or invalid."""
    try:
        proofs = parse_json(read_regular(path, _MAX_RECORD_BYTES))
    except (OSError, ValueError):
        return {}
    if not isinstance(proofs, dict):
        return {}
    return {name: proof for name, proof in proofs.items() if isinstance(proof, str)}


def _proof(checkpoint: Path) -> str | None:
    """Returns a digest that changes when any file below is changed, replaced, added or removed; None if one vanishes meanwhile."""
    digest = hashlib.sha256()
    pending = [(os.fspath(checkpoint), "")]
    try:
        while pending:
            directory, prefix = pending.pop()
            with os.scandir(directory) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    name = f"{prefix}{entry.name}"
                    if entry.is_dir():
                        pending.append((entry.path, f"{name}/"))
                    digest.update(f"{name}\0{_stamp(entry.stat())}\0".encode(errors="surrogateescape"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return digest.hexdigest()


def _stamp_of(path: Path) -> tuple | None:
    try:
        return _stamp(os.stat(path))
    except FileNotFoundError:
        return None


def _stamp(found: os.stat_result) -> tuple:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
