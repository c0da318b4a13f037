"""Copy on this machine of a run in object storage, for commands that read it.

`local_copy` downloads the shared files and the manifests of all checkpoints, which are small; `complete` downloads the
files of one checkpoint when it is read. A copy is kept in the cache directory, so what is there already is not
downloaded again. It is another directory than the mirror of a run that trains on this machine.
"""

import importlib.util
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxdp.atomic_files import write_atomically
from jaxdp.checkpoint.manifest import MANIFEST, read_manifest
from jaxdp.checkpoint.mirror_files import NOT_RESTORED, download, is_shared, mirror_directory, shared_files
from jaxdp.checkpoint.names import list_directory, step_of
from jaxdp.checkpoint.remote_steps import DIRECTORY, RemoteSteps, fetch_files, files_in
from jaxdp.errors import UserError
from jaxdp.json_files import read_json
from jaxdp.lock import exclusive
from jaxdp.storage.cloud_store import open_store
from jaxdp.storage.location import RemoteLocation, check_scheme, is_remote, remote_location
from jaxdp.storage.object_store import ObjectStore
from jaxdp.workdir import WorkDir

RECORD = ".copy.json"
"""File of a copy with its URL and the versions of its files."""


def read_directory(path: str | os.PathLike[str], option: str = "--workdir", *, must_exist: bool = True) -> WorkDir:
    """Returns the work directory to read: that of a path, or the copy of one in object storage.

    Args:
        path: Path or URL.
        option: Name of the option that gives it, for messages.
        must_exist: Whether a URL must lead to a run; otherwise the copy may be empty.

    Raises:
        UserError: The path is invalid, or the URL leads to no run.
        StorageError: The store cannot be read.
    """
    check_scheme(path, option)
    if not is_remote(path):
        return WorkDir(path, option)
    return WorkDir(local_copy(path, option, must_exist=must_exist), option, str(path))


def local_copy(path: str | os.PathLike[str], option: str, *, must_exist: bool = True) -> str | os.PathLike[str]:
    """Returns the path of the copy of a run in object storage, or of a checkpoint of one; other paths unchanged.

    Args:
        path: Path, or URL of a work directory or of `checkpoints/<step>` in it.
        option: Name of the option that gives it, for messages.
        must_exist: See `read_directory`.

    Raises:
        UserError: There is no run at the URL, or the URL or the installation is not fit for one.
        StorageError: The store cannot be read.
    """
    if not is_remote(path):
        return path
    location, step = _run_of(remote_location(str(path), option))
    store = open_store(location, option)
    copy = mirror_directory(location, "reading")
    if must_exist and not _has(store, "config.json"):
        raise UserError(f"{option}={path} holds no run ({location.url}/config.json is missing); check the URL.")
    copy.mkdir(parents=True, exist_ok=True)
    with exclusive(copy / "run.lock", lambda holder: None):
        update_copy(copy, store)
    if step is None:
        return copy
    if not (copy / DIRECTORY / step / MANIFEST).is_file():
        raise UserError(f"{option}={path} holds no checkpoint with a manifest; check the URL.")
    return copy / DIRECTORY / step


def is_remote_run(path: str) -> bool:
    """Returns True for the URL of a run, or of a checkpoint of one, in object storage.

    A Hugging Face folder has a config.json too. Without obstore nothing can be a run; fsspec reads folders and files.

    Raises:
        StorageError: The store cannot be read.
    """
    if path.endswith(".safetensors") or not is_remote(path):
        return False
    location, step = _run_of(remote_location(path, "PATH"))
    if importlib.util.find_spec("obstore") is None:
        return False
    store = open_store(location, "PATH")
    return step is not None or _has(store, "provenance.json") or bool(store.list(DIRECTORY))


def complete(checkpoint: Path) -> None:
    """Downloads the files of a checkpoint of a copy that are not there; nothing for other checkpoints.

    Raises:
        DamageFound: An object is missing or not what its manifest says.
        UserError: A run has deleted the checkpoint meanwhile.
        StorageError: The store cannot be read.
    """
    store = _store_of(checkpoint.parent.parent)
    if store is not None and read_manifest(checkpoint) is not None:
        fetch_files(store, checkpoint)


def send_file(path: Path) -> None:
    """Puts a file at the top of a copy into the store; nothing for files elsewhere.

    Raises:
        StorageError: The store cannot be written.
    """
    store = _store_of(path.parent)
    if store is not None:
        store.put(path.name, path)


def stored_damage(checkpoint: Path) -> list[str] | None:
    """Returns a sentence for each object of a checkpoint that is missing or of another size; None: it is of no copy."""
    store, manifest = _store_of(checkpoint.parent.parent), read_manifest(checkpoint)
    if store is None or manifest is None:
        return None
    prefix = f"{DIRECTORY}/{checkpoint.name}"
    sizes = {info.key.removeprefix(f"{prefix}/"): info.size for info in store.list(prefix)}
    return [
        f"{store.url}/{prefix}/{name} is missing"
        if name not in sizes
        else f"{store.url}/{prefix}/{name} has {sizes[name]} bytes, {file['bytes']} were written"
        for name, file in manifest.files.items()
        if sizes.get(name) != file["bytes"]
    ]


def place_of(path: Path) -> str:
    """Returns the URL of a path of a copy, or of its directory; other paths as text."""
    for root in (path, *path.parents[:3]):  # a file of an item of a checkpoint is no deeper
        if (url := _url_of(root)) is not None:
            return "/".join((url, *path.relative_to(root).parts))
    return str(path)


def _store_of(root: Path) -> ObjectStore | None:
    """Returns the store of a copy; None for another directory."""
    url = _url_of(root)
    return None if url is None else open_store(remote_location(url, "PATH"), "PATH")


def _url_of(root: Path) -> str | None:
    """Returns the URL of a copy; None for another directory."""
    path = root / RECORD
    return read_json(path, "the record of a copy; remove its directory")["url"] if path.is_file() else None


def _run_of(location: RemoteLocation) -> tuple[RemoteLocation, str | None]:
    """Returns the work directory, and the step of a URL that ends in `checkpoints/<step>`."""
    root, _, tail = location.prefix.rpartition(f"{DIRECTORY}/")
    if step_of(tail) is None or (root and not root.endswith("/")):
        return location, None
    return location._replace(prefix=root.rstrip("/")), tail


def _has(store: ObjectStore, key: str) -> bool:
    try:
        store.read_range(key, 0, 1)
    except FileNotFoundError:
        return False
    return True


def update_copy(copy: Path, store: ObjectStore, own: Collection[str] = ()) -> None:
    """Makes the shared files and the manifests of a copy equal to the store.

    Args:
        copy: Directory of the copy.
        store: Work directory in object storage.
        own: Files that are left as they are, by relative path.

    Raises:
        StorageError: The store cannot be read.
    """
    record = copy / RECORD
    known: Mapping[str, Any] = (
        read_json(record, "the record of a copy; remove its directory") if record.is_file() else {}
    )
    versions = dict(known.get("versions", {}))
    objects = {info.key: info.version for info in store.list() if is_shared(info.key) and info.key not in own}
    for path in shared_files(copy):
        if (name := path.relative_to(copy).as_posix()) not in objects and name not in own:
            path.unlink()
    for key, version in objects.items():
        if not key.startswith(NOT_RESTORED) and (versions.get(key) != version or not (copy / key).is_file()):
            download(store, key, copy / key)
    _update_manifests(copy / DIRECTORY, RemoteSteps(store))
    write_atomically(record, json.dumps({"url": store.url, "versions": objects}))


def _update_manifests(checkpoints: Path, steps: RemoteSteps) -> None:
    """Makes the manifests of a copy equal to the store; files of a checkpoint that was saved again are deleted."""
    checkpoints.mkdir(exist_ok=True)
    stored = {str(step): files_in(content) for step, content in steps.manifests.items()}
    for path in list_directory(checkpoints):
        manifest = path / MANIFEST
        if path.name not in stored or not manifest.is_file() or files_in(manifest.read_bytes()) != stored[path.name]:
            shutil.rmtree(path)
    for step in steps.manifests:
        steps.fetch_manifest(step, checkpoints)
