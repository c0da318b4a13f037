"""Mirror of a run in object storage: its work directory on this machine, restored at the start and published while it trains.

The run works in the mirror as in any work directory. `restore` makes the mirror equal to the store: shared files, the
manifests of all checkpoints, and the files of the newest one; the files of older ones are downloaded when they are
needed. `publish` makes the store equal to the mirror: shared files first, new checkpoints after them, deletions last. So
at every moment the store has a whole newest checkpoint and the metrics up to it.

If the last process that held the lease used this very mirror, the mirror may be ahead of the store, e.g. by a
checkpoint that was not uploaded before a kill. Then the mirror stays as it is and is published.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxdp.atomic_files import atomic_replacement, write_atomically
from jaxdp.cache_home import cache_home
from jaxdp.checkpoint.integrity import Intactness
from jaxdp.checkpoint.manifest import MANIFEST, committed_steps
from jaxdp.checkpoint.names import damaged_step, list_directory
from jaxdp.checkpoint.remote_steps import DIRECTORY, RemoteSteps, fetch_files
from jaxdp.json_files import parse_json, read_regular
from jaxdp.storage.lease import KEY as LEASE_KEY
from jaxdp.storage.lease import Lease, LeaseLost
from jaxdp.storage.location import RemoteLocation
from jaxdp.storage.object_store import ObjectStore, StorageError, StorageLost
from jaxdp.workdir import WorkDir

PUBLISH_SECS = 60.0
"""Longest time between two publications of the shared files."""

MAX_OUTAGE_SECS = 600.0
"""Time for which a run repeats a failed operation before it stops."""

MAX_DELAY_SECS = 30.0
"""Longest delay between two attempts."""

NOT_RESTORED = ("tensorboard/", "plots/", "profile/")
"""Prefixes of files that a run adds to and never reads."""

STATE = ".mirror.json"
"""File of a mirror with its name, the lease under which it was whole, and what was published."""


class RunMirror:
    """Mirror of the work directory of a run; a context manager that publishes in the background and at its end."""

    def __init__(
        self,
        directory: WorkDir,
        store: ObjectStore,
        lease: Lease,
        print_status: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """Creates the mirror and restores or publishes it.

        Args:
            directory: The mirror.
            store: Work directory in object storage.
            lease: Lease of it, acquired as `mirror_name(directory)`.
            print_status: Prints a message.
            clock: Returns the time in seconds; replaced in tests.
            sleep: Waits for seconds; replaced in tests.

        Raises:
            StorageError: The store cannot be reached.
        """
        self._directory, self._store, self._lease, self._print_status = directory, store, lease, print_status
        self._clock, self._sleep, self._name = clock, sleep, mirror_name(directory)
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._publish_until_end, name="run-mirror", daemon=True)
        self._state = directory.root / STATE
        self._steps = RemoteSteps(store, lease.ensure)
        self._published = _read_state(self._state).get("published", {})
        if not lease.previous or lease.previous != _read_state(self._state).get("session"):
            self._restore()
        self._record()
        self.publish()
        for step in self._steps.remove_unfinished():
            print_status(f"removed {store.url}/{DIRECTORY}/{step}, which an interrupted upload or deletion left behind")

    def __enter__(self) -> "RunMirror":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if isinstance(error, StorageError | StorageLost | LeaseLost):
            return
        try:
            self.publish()
        except (StorageError, StorageLost, LeaseLost) as failure:
            if error is None:
                raise
            self._print_status(f"{self._store.url} does not have the last changes of this run: {failure}")

    def publish(self) -> None:
        """Makes the store equal to the mirror; repeats what fails for a transient reason.

        Raises:
            LeaseLost: Another run has taken over the work directory.
            StorageLost: The store stayed unreachable.
            StorageError: The store refuses a change.
        """
        self._repeated(self._publish)

    def fetch(self, step: int) -> None:
        """Downloads the files of a checkpoint that are missing or changed in the mirror.

        Raises:
            DamageFound: The checkpoint in the store is damaged.
            StorageLost: The store stayed unreachable.
        """
        self._repeated(lambda: fetch_files(self._store, self._directory.checkpoints / str(step), compare=True))

    def _repeated(self, operation: Callable[[], None]) -> None:
        start, delay = self._clock(), 1.0
        while True:
            try:
                with self._lock:
                    return operation()
            except StorageError as error:
                if not error.is_transient:
                    raise
                if self._clock() - start > MAX_OUTAGE_SECS:
                    raise StorageLost(
                        f"{str(error).rstrip('.')} (repeated for {MAX_OUTAGE_SECS / 60:.0f} min). Nothing is lost: the state is in "
                        f"{self._directory.root}, and the same command on this machine continues from it."
                    ) from error
                if delay == 1.0:
                    self._print_status(f"trying again for up to {MAX_OUTAGE_SECS / 60:.0f} min: {error}")
            self._sleep(delay)
            delay = min(2 * delay, MAX_DELAY_SECS)

    def _restore(self) -> None:
        """Makes the mirror equal to the store."""
        root, checkpoints = self._directory.root, self._directory.checkpoints
        objects = {info.key: info for info in self._store.list() if is_shared(info.key)}
        for path in shared_files(root):
            if path.relative_to(root).as_posix() not in objects:
                path.unlink()
        shutil.rmtree(checkpoints, ignore_errors=True)
        for key in objects:
            if not key.startswith(NOT_RESTORED):
                download(self._store, key, root / key)
        proofs = Intactness(self._directory.proofs)
        for step in sorted(self._steps.manifests):
            proofs.trust(self._steps.fetch_manifest(step, checkpoints))
        if self._steps.manifests:
            proofs.record(checkpoints)
            self._print_status(f"downloading checkpoint {max(self._steps.manifests)} of {self._store.url}")
            fetch_files(self._store, checkpoints / str(max(self._steps.manifests)))
        self._published = {path.relative_to(root).as_posix(): _stamp(path) for path in shared_files(root)}

    def _publish(self) -> None:
        self._publish_shared()
        checkpoints = self._directory.checkpoints
        there = committed_steps(checkpoints) if checkpoints.is_dir() else []
        for step in there:
            directory = checkpoints / str(step)
            if self._steps.manifests.get(step) == (directory / MANIFEST).read_bytes():
                continue
            if step not in self._steps.manifests and os.listdir(directory) == [MANIFEST]:
                shutil.rmtree(directory)  # it was never downloaded, and somebody has deleted it from the store
            else:
                self._steps.upload(directory)
        for step in sorted(self._steps.manifests.keys() - set(there)):
            if aside := self._set_aside_as(step):
                self._steps.set_aside(step, aside)
            else:
                self._steps.remove(step)

    def _publish_shared(self) -> None:
        """Puts the shared files that have changed since they were published."""
        root = self._directory.root
        for path in shared_files(root):
            name = path.relative_to(root).as_posix()
            try:
                stamp = _stamp(path)
                if self._published.get(name) == stamp:
                    continue
                content = path.read_bytes()
            except FileNotFoundError:  # temporary
                continue
            self._lease.ensure()
            self._store.put(name, content)
            self._published[name] = stamp
        self._record()

    def _record(self) -> None:
        """Records that the mirror is whole under this lease, and what was published."""
        _write_state(self._state, {"name": self._name, "session": self._lease.session, "published": self._published})

    def _set_aside_as(self, step: int) -> str | None:
        """Returns the name under which the mirror has set aside the checkpoint that the store has; None if it has deleted it."""
        for path in list_directory(self._directory.checkpoints):
            manifest = path / MANIFEST
            if (
                damaged_step(path.name) == step
                and manifest.is_file()
                and manifest.read_bytes() == self._steps.manifests[step]
            ):
                return path.name
        return None

    def _publish_until_end(self) -> None:
        """Publishes the shared files at intervals; what fails is repeated at the next one, and at the next checkpoint."""
        wait, is_failing = PUBLISH_SECS, False
        while not self._ended.wait(wait):
            start = self._clock()
            try:
                with self._lock:
                    self._publish_shared()
                is_failing = False
            except (StorageError, LeaseLost) as error:
                if not is_failing:
                    self._print_status(f"{self._store.url} does not have the newest metrics at the moment: {error}")
                is_failing = True
            wait = max(PUBLISH_SECS, 50 * (self._clock() - start))  # files of a long run are large


def mirror_directory(location: RemoteLocation, purpose: str) -> Path:
    """Returns the directory on this machine for the files of a place in object storage.

    Args:
        location: The place.
        purpose: `run` for a run that trains there, `reading` for commands that read it.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")  # servers of equal bucket names differ
    digest = hashlib.sha256(f"{location.url} {endpoint}".encode()).hexdigest()[:16]
    return cache_home() / "remote" / f"{location.url.rpartition('/')[2]}-{digest}" / purpose


def mirror_name(directory: WorkDir) -> str:
    """Returns the name of a mirror, by which its lease is known; made at its first use."""
    path = directory.root / STATE
    name = _read_state(path).get("name")
    if not isinstance(name, str):
        name = secrets.token_hex(8)
        _write_state(path, {"name": name})
    return name


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = parse_json(read_regular(path))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write_state(path: Path, state: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(state))


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


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
