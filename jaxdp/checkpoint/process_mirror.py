"""Mirror of a run in object storage in a process other than process 0, whose machine shares no directory with it.

It is downloaded at the start, after process 0 has published its own. It then stays as it is: process 0 alone changes
the run. This process puts its log, its profile and, before process 0 commits a checkpoint, the shards that it holds.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from jaxdp.atomic_files import atomic_replacement
from jaxdp.checkpoint.manifest import MANIFEST
from jaxdp.checkpoint.mirror import Mirror
from jaxdp.checkpoint.mirror_files import download, shared_files, stamp
from jaxdp.checkpoint.remote_copy import update_copy
from jaxdp.checkpoint.remote_shards import put_shards
from jaxdp.checkpoint.remote_steps import fetch_files, object_key
from jaxdp.checkpoint.shard_records import shards_directory
from jaxdp.errors import DamageFound
from jaxdp.storage.held_lease import HeldLease
from jaxdp.storage.object_store import ObjectStore
from jaxdp.workdir import WorkDir


class ProcessMirror(Mirror):
    """Mirror of the work directory of a run, in a process that does not hold its lease."""

    def __init__(
        self,
        directory: WorkDir,
        store: ObjectStore,
        lease: HeldLease,
        process: int,
        print_status: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """Downloads the mirror.

        Args:
            directory: The mirror.
            store: Work directory in object storage.
            lease: Lease of process 0, which has published.
            process: Index of this process.
            print_status: Prints a message.
            clock: Returns the time in seconds; replaced in tests.
            sleep: Waits for seconds; replaced in tests.

        Raises:
            StorageLost: The store stayed unreachable.
            StorageError: The store cannot be read.
        """
        what_remains = f"the checkpoints are in {store.url}, and the same command continues from the newest"
        super().__init__(store, print_status, what_remains, clock, sleep)
        self._directory, self._lease = directory, lease
        self._log = directory.log(process)
        self._published: dict[Path, list[int]] = {}
        self._repeated(self._download)

    def fetch(self, step: int) -> None:
        """See `Mirror.fetch`; the checkpoint may be newer than this mirror."""
        self._repeated(lambda: self._fetch(step))

    def send_shards(self, unfinished: Path, process: int) -> None:
        """Puts the shards of this process into the store; see `Destination.send_shards`.

        Raises:
            LeaseLost: Another run has taken over the work directory.
            StorageLost: The store stayed unreachable.
            StorageError: The store refuses a change.
        """
        self._repeated(lambda: put_shards(self._store, self._lease.ensure, unfinished, process))
        shutil.rmtree(shards_directory(unfinished))

    def _download(self) -> None:
        """Makes the mirror equal to the store, except for the log of this process where it has more lines here."""
        root = self._directory.root
        name = self._log.relative_to(root).as_posix()
        update_copy(root, self._store, own=[name])
        stored = {info.key: info.size for info in self._store.list(name.rpartition("/")[0])}
        if name in stored and not (self._log.is_file() and self._log.stat().st_size >= stored[name]):
            download(self._store, name, self._log)

    def _fetch(self, step: int) -> None:
        directory = self._directory.checkpoints / str(step)
        try:
            manifest = self._store.read(object_key(step, MANIFEST))[0]
        except FileNotFoundError as error:
            raise DamageFound(f"{self._store.url}/{object_key(step, MANIFEST)} is missing.") from error
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_replacement(directory / MANIFEST) as temporary:
            temporary.write_bytes(manifest)
        fetch_files(self._store, directory, compare=True)

    def _publish_shared(self) -> None:
        root = self._directory.root
        for path in [*shared_files(self._directory.profile), self._log]:
            try:
                now = stamp(path)
                if self._published.get(path) == now:
                    continue
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            self._store.put(path.relative_to(root).as_posix(), content)
            self._published[path] = now
