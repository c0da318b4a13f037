"""Checkpoints in object storage: upload, download, deletion, and what a store has.

A checkpoint has the same names as on a disk, `checkpoints/<step>/...`. Its files are put first and its manifest last,
which commits it; a deletion removes the manifest first. What has no manifest is what an interrupted upload or deletion
left, and never counts.
"""

import concurrent.futures
import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxdp.atomic_files import atomic_replacement
from jaxdp.checkpoint.files import changed_files
from jaxdp.checkpoint.manifest import MANIFEST, Manifest, require_manifest
from jaxdp.checkpoint.names import step_of
from jaxdp.errors import DamageFound, UserError
from jaxdp.json_files import parse_json
from jaxdp.storage.object_store import ObjectStore, StorageError

DIRECTORY = "checkpoints"
"""Prefix of all checkpoints."""

NUM_THREADS = 8
"""Number of objects that are transferred at once."""


class RemoteSteps:
    """Checkpoints of one work directory in object storage.

    Attributes:
        manifests: Step -> content of its manifest.
    """

    def __init__(self, store: ObjectStore, check_write: Callable[[], None] = lambda: None):
        """Lists the checkpoints.

        Args:
            store: Work directory.
            check_write: Called before each operation that changes the store.

        Raises:
            StorageError: The store cannot be read.
        """
        self._store, self._check_write = store, check_write
        self.manifests: dict[int, bytes] = {}
        self._unfinished: set[int] = set()
        for info in store.list(DIRECTORY):
            _, name, *rest = info.key.split("/")
            step = step_of(name)
            if step is None:
                continue
            self._unfinished.add(step)
            if rest == [MANIFEST]:
                with contextlib.suppress(FileNotFoundError):  # a run has deleted it meanwhile
                    self.manifests[step] = store.read(info.key)[0]
        self._unfinished -= self.manifests.keys()

    def upload(self, directory: Path) -> None:
        """Uploads a committed checkpoint, its manifest last; one whose files are there gets only its manifest.

        Files that are not on this disk are the shards of other processes, which have put them.

        Raises:
            StorageError: An object cannot be put, or is not what was put.
            DamageFound: The manifest of the checkpoint is damaged.
        """
        step, manifest = int(directory.name), require_manifest(directory)
        if files_in(self.manifests.get(step, b"")) != manifest.files:
            self._withdraw(step)
            self._delete(step, kept=manifest.files)
            self._unfinished.add(step)
            own = manifest.files.keys() - files_elsewhere(directory).keys()
            _in_threads(lambda name: self._put(object_key(step, name), directory / name), own)
            self._check_sizes(step, manifest)
        content = (directory / MANIFEST).read_bytes()
        self._check_write()
        self._store.put(object_key(step, MANIFEST), content)
        self.manifests[step] = content
        self._unfinished.discard(step)

    def missing_files(self, directory: Path) -> list[str]:
        """Returns the files of a checkpoint that are neither on this disk nor in the store.

        Raises:
            StorageError: The store cannot be read.
            DamageFound: The manifest of the checkpoint is damaged.
        """
        elsewhere = files_elsewhere(directory)
        sizes = self._sizes(int(directory.name)) if elsewhere else {}
        return [name for name, file in elsewhere.items() if sizes.get(name) != file["bytes"]]

    def _check_sizes(self, step: int, manifest: Manifest) -> None:
        sizes = self._sizes(step)
        for name, file in manifest.files.items():
            if sizes.get(name) != file["bytes"]:
                raise StorageError(
                    f"{self._store.url}/{object_key(step, name)} has {sizes.get(name, 0)} bytes, {file['bytes']} were put: "
                    "another program changes it.",
                    is_transient=True,
                )

    def _sizes(self, step: int) -> dict[str, int]:
        """Returns the size of each object of a checkpoint, by relative path."""
        prefix = object_key(step)
        return {info.key.removeprefix(f"{prefix}/"): info.size for info in self._store.list(prefix)}

    def remove(self, step: int) -> None:
        """Deletes a checkpoint, or what is left of one, its manifest first.

        Raises:
            StorageError: An object cannot be deleted.
        """
        self._withdraw(step)
        if step in self._unfinished:
            self._delete(step)
            self._unfinished.discard(step)

    def _withdraw(self, step: int) -> None:
        """Deletes the manifest of a checkpoint, which then no longer counts."""
        if step in self.manifests:
            self._check_write()
            self._store.delete([object_key(step, MANIFEST)])
            del self.manifests[step]
            self._unfinished.add(step)

    def _delete(self, step: int, kept: Collection[str] = ()) -> None:
        """Deletes the objects of a checkpoint that does not count, except for some, by relative path."""
        doomed = [object_key(step, name) for name in self._sizes(step) if name not in kept]
        if doomed:
            self._check_write()
            self._store.delete(doomed)

    def set_aside(self, step: int, name: str) -> None:
        """Moves a damaged checkpoint to another name, its manifest last.

        Raises:
            StorageError: An object cannot be copied or deleted.
        """
        keys = [info.key for info in self._store.list(object_key(step))]
        for key in sorted(keys, key=lambda key: key == object_key(step, MANIFEST)):
            self._check_write()
            self._store.copy(key, f"{DIRECTORY}/{name}/{key.removeprefix(f'{object_key(step)}/')}")
        self.remove(step)

    def remove_unfinished(self) -> list[int]:
        """Deletes what interrupted uploads and deletions left; returns the steps.

        Raises:
            StorageError: An object cannot be deleted.
        """
        steps = sorted(self._unfinished)
        for step in steps:
            self.remove(step)
        return steps

    def fetch_manifest(self, step: int, checkpoints: Path) -> Path:
        """Writes the manifest of a checkpoint, without its files; returns the directory."""
        directory = checkpoints / str(step)
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_replacement(directory / MANIFEST) as temporary:
            temporary.write_bytes(self.manifests[step])
        return directory

    def _put(self, key: str, path: Path) -> None:
        self._check_write()
        self._store.put(key, path)


def files_elsewhere(directory: Path) -> dict[str, Any]:
    """Returns the files of a checkpoint that are not in its directory.

    Raises:
        DamageFound: The manifest is damaged.
    """
    return {name: file for name, file in require_manifest(directory).files.items() if not (directory / name).exists()}


def fetch_files(
    store: ObjectStore, directory: Path, is_needed: Callable[[str], bool] = lambda name: True, *, compare: bool = False
) -> None:
    """Downloads files of a checkpoint whose manifest is there already.

    Args:
        store: Work directory.
        directory: Directory `checkpoints/<step>` with the manifest.
        is_needed: Function from the relative path of a file to whether it is needed.
        compare: Whether files that are there are compared by content; otherwise by size.

    Raises:
        StorageError: The store cannot be read.
        UserError: A run has deleted the checkpoint meanwhile.
        DamageFound: The manifest is damaged, or an object is not what it says.
    """
    files = {name: file for name, file in require_manifest(directory).files.items() if is_needed(name)}
    missing = [name for name, file in files.items() if changed_files(directory, {name: file}, read_contents=compare)]
    _in_threads(lambda name: _fetch(store, directory, name, files[name]), missing)


def _fetch(store: ObjectStore, directory: Path, name: str, file: Mapping[str, Any]) -> None:
    """Downloads a file and compares it with the manifest while it arrives."""
    path, key, digest = directory / name, object_key(int(directory.name), name), hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_replacement(path) as temporary, open(temporary, "wb") as target:
            for piece in store.pieces(key):
                digest.update(piece)
                target.write(piece)
    except FileNotFoundError:
        try:
            store.read(object_key(int(directory.name), MANIFEST))
        except FileNotFoundError as error:
            raise UserError(
                f"{store.url}/{object_key(int(directory.name))} was deleted while it was read, probably by the run that trains there; "
                "run the same command again."
            ) from error
        raise DamageFound(f"{store.url}/{key} is missing.") from None
    if digest.hexdigest() != file["sha256"]:
        path.unlink()
        raise DamageFound(f"{store.url}/{key} has another SHA-256 than when it was written.")


def files_in(content: bytes) -> Mapping[str, Any] | None:
    """Returns the files that the content of a manifest lists; None if it is none."""
    try:
        return parse_json(content)["files"]
    except (ValueError, KeyError, TypeError):
        return None


def _in_threads(transfer: Callable[[str], None], names: Iterable[str]) -> None:
    """Calls a function for each name, several at once; after a failure none is begun any more."""
    with concurrent.futures.ThreadPoolExecutor(NUM_THREADS, "transfer") as pool:
        pending = [pool.submit(transfer, name) for name in names]
        try:
            for future in concurrent.futures.as_completed(pending):
                future.result()
        finally:
            for future in pending:
                future.cancel()


def object_key(step: int, name: str = "") -> str:
    """Returns the key of a file of a checkpoint, or the prefix of all of them."""
    return "/".join(filter(None, (DIRECTORY, str(step), name)))
