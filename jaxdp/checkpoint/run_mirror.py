"""Mirror of a run in object storage: its work directory on this machine, restored at the start and published while it trains.

The run works in the mirror as in any work directory. `restore` makes the mirror equal to the store: shared files, the
manifests of all checkpoints, and the files of the newest one; the files of older ones are downloaded when they are
needed. `publish` makes the store equal to the mirror: shared files first, new checkpoints after them, deletions last. So
at every moment the store has a whole newest checkpoint and the metrics up to it.

If the last process that held the lease used this very mirror, the mirror may be ahead of the store, e.g. by a
checkpoint that was not uploaded before a kill. Then the mirror stays as it is and is published.

Of several processes this is the mirror of process 0; the others have a `ProcessMirror`. The shards of theirs are not in
this mirror but in the store, before the checkpoint is committed in this mirror.
"""

import json
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxdp.atomic_files import write_atomically
from jaxdp.checkpoint.integrity import Intactness
from jaxdp.checkpoint.manifest import MANIFEST, committed_steps
from jaxdp.checkpoint.mirror import Mirror
from jaxdp.checkpoint.mirror_files import NOT_RESTORED, download, is_shared, shared_files, stamp
from jaxdp.checkpoint.names import damaged_step, list_directory
from jaxdp.checkpoint.remote_shards import POLL_SECS, find_records
from jaxdp.checkpoint.remote_steps import DIRECTORY, RemoteSteps, fetch_files, files_elsewhere
from jaxdp.checkpoint.shard_records import ShardRecord, collect_shards
from jaxdp.errors import DamageFound
from jaxdp.json_files import parse_json, read_regular
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.storage.lease import Lease
from jaxdp.storage.object_store import ObjectStore
from jaxdp.workdir import WorkDir

STATE = ".mirror.json"
"""File of a mirror with its name, the lease under which it was whole, and what was published."""


class RunMirror(Mirror):
    """Mirror of the work directory of a run, in the process that holds its lease."""

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
            StorageLost: The store stayed unreachable.
            StorageError: The store cannot be reached when the start begins, or refuses an operation.
        """
        what_remains = f"the state is in {directory.root}, and the same command on this machine continues from it"
        super().__init__(store, print_status, what_remains, clock, sleep)
        self._directory, self._lease, self._name = directory, lease, mirror_name(directory)
        self._state = directory.root / STATE
        self._steps = RemoteSteps(store, lease.ensure)
        self._published = _read_state(self._state).get("published", {})
        if not lease.previous or lease.previous != _read_state(self._state).get("session"):
            self._repeated(self._restore)
        self._record()
        self.publish()
        for step in self._steps.remove_unfinished():
            print_status(f"removed {store.url}/{DIRECTORY}/{step}, which an interrupted upload or deletion left behind")
        self._repeated(self._fetch_newest)

    def fetch(self, step: int) -> None:
        """See `Mirror.fetch`."""
        self._repeated(lambda: fetch_files(self._store, self._directory.checkpoints / str(step), compare=True))

    def collect_shards(self, unfinished: Path, control_plane: ControlPlane) -> list[ShardRecord]:
        """Waits until the shards of the other processes are in the store; see `Destination.collect_shards`."""

        def find(processes: set[int]) -> dict[int, ShardRecord]:
            return self._repeated(lambda: find_records(self._store, unfinished, processes))

        return collect_shards(unfinished, control_plane, find, POLL_SECS)

    def _restore(self) -> None:
        """Makes the mirror equal to the store, except for the files of checkpoints."""
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
        self._published = {path.relative_to(root).as_posix(): stamp(path) for path in shared_files(root)}

    def _fetch_newest(self) -> None:
        """Downloads what is missing of the newest checkpoint, or of the newest that is undamaged."""
        for step in sorted(self._steps.manifests, reverse=True):
            directory = self._directory.checkpoints / str(step)
            try:
                if files_elsewhere(directory):
                    self._print_status(f"downloading checkpoint {step} of {self._store.url}")
                fetch_files(self._store, directory)
                return
            except DamageFound as damage:  # the run names it, sets it aside and restores the one before it
                self._print_status(f"checkpoint {step} is damaged: {damage}")

    def _publish(self) -> None:
        self._publish_shared()
        checkpoints = self._directory.checkpoints
        there = committed_steps(checkpoints) if checkpoints.is_dir() else []
        for step in there:
            directory = checkpoints / str(step)
            if self._steps.manifests.get(step) == (directory / MANIFEST).read_bytes():
                continue
            if step not in self._steps.manifests and self._steps.missing_files(directory):
                shutil.rmtree(directory)  # it is not whole here, and somebody has deleted it from the store
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
                now = stamp(path)
                if self._published.get(name) == now:
                    continue
                content = path.read_bytes()
            except FileNotFoundError:  # temporary
                continue
            self._lease.ensure()
            self._store.put(name, content)
            self._published[name] = now
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
