"""Files of the mirrors and copies of a run in object storage: their directories, and which files of a run are shared."""

import contextlib
import hashlib
import os
from pathlib import Path

from jaxdp.atomic_files import atomic_replacement
from jaxdp.cache_home import cache_home
from jaxdp.checkpoint.remote_steps import DIRECTORY
from jaxdp.storage.lease_content import KEY as LEASE_KEY
from jaxdp.storage.location import RemoteLocation
from jaxdp.storage.object_store import ObjectStore

NOT_RESTORED = ("tensorboard/", "plots/", "profile/")
"""Prefixes of files that a run adds to and never reads."""


def mirror_directory(location: RemoteLocation, purpose: str) -> Path:
    """Returns the directory on this machine for the files of a place in object storage.

    Args:
        location: The place.
        purpose: `run` for a run that trains there, `process_<i>` for its processes other than process 0, `reading` for
            commands that read it.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")  # servers of equal bucket names differ
    digest = hashlib.sha256(f"{location.url} {endpoint}".encode()).hexdigest()[:16]
    return cache_home() / "remote" / f"{location.url.rpartition('/')[2]}-{digest}" / purpose


def download(store: ObjectStore, key: str, path: Path) -> None:
    """Downloads an object, replacing the file atomically; one that a run has deleted meanwhile is left out.

    Raises:
        StorageError: The store cannot be read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError), atomic_replacement(path) as temporary, open(temporary, "wb") as target:
        for piece in store.pieces(key):
            target.write(piece)


def is_shared(key: str) -> bool:
    """Returns True for the file of a run that is neither of a checkpoint nor of this machine alone, by relative path."""
    first = key.split("/")[0]
    is_own = key.startswith(".") or key in (LEASE_KEY, "run.lock") or key.endswith(".partial")
    return first != DIRECTORY and not is_own and key.isprintable()


def shared_files(root: Path) -> list[Path]:
    """Lists the regular files of a work directory that `is_shared`."""
    found = []
    for parent, directories, names in os.walk(root):
        if Path(parent) == root:
            directories[:] = [name for name in directories if name != DIRECTORY and not name.startswith(".")]
        paths = (Path(parent, name) for name in sorted(names))
        found += [path for path in paths if is_shared(path.relative_to(root).as_posix()) and path.is_file()]
    return found


def stamp(path: Path) -> list[int]:
    """Returns what changes when a file is written: its size and time."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
