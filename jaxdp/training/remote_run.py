"""Run whose work directory is in object storage: checks of the URL, the lease, and the mirror on this machine."""

import contextlib
import dataclasses
import os
from collections.abc import Callable

from jaxdp.checkpoint.run_mirror import RunMirror, mirror_directory, mirror_name
from jaxdp.errors import UserError
from jaxdp.parallel.processes import Processes
from jaxdp.report.terminal import print_status
from jaxdp.storage.cloud_store import open_store
from jaxdp.storage.lease import Lease
from jaxdp.storage.location import check_scheme, is_remote, remote_location
from jaxdp.storage.object_store import ObjectStore
from jaxdp.workdir import WorkDir

OPTION = "--workdir"


@dataclasses.dataclass(frozen=True)
class RemoteRun:
    """Work directory in object storage.

    Attributes:
        store: Its objects.
        directory: Its mirror on this machine.
    """

    store: ObjectStore
    directory: WorkDir


def open_remote_run(workdir: str | os.PathLike[str], processes: Processes) -> RemoteRun | None:
    """Opens a work directory in object storage, before anything is made here or there; None for a local path.

    Raises:
        UserError: The URL is invalid, a package is missing, or several processes train together.
        StorageError: The bucket cannot be reached or read.
    """
    check_scheme(workdir, OPTION)
    if not is_remote(workdir):
        return None
    location = remote_location(str(workdir), OPTION)
    if processes.num_processes > 1:
        raise UserError(
            f"{OPTION}={location.url}: {processes.num_processes} processes cannot train in object storage yet; choose a directory "
            "that all machines share, or train with one process."
        )
    store = open_store(location, OPTION)
    store.list("logs")
    return RemoteRun(store, WorkDir(mirror_directory(location, "run"), OPTION, location.url))


def mirrored(
    stack: contextlib.ExitStack, remote: RemoteRun, check_held: Callable[[], None]
) -> tuple[RunMirror, Callable[[], None]]:
    """Acquires the lease of a work directory and restores its mirror, whose lock this process holds.

    Args:
        stack: Holds the lease and the mirror until the run ends.
        remote: The work directory.
        check_held: Check that the lock of the mirror is held.

    Returns:
        (the mirror, a function to call before every write into it).

    Raises:
        UserError: Another process trains there.
        StorageError: The bucket cannot be reached or written.
    """
    lease = stack.enter_context(Lease(remote.store, mirror_name(remote.directory), OPTION, print_status=print_status))
    mirror = stack.enter_context(RunMirror(remote.directory, remote.store, lease, print_status))

    def check_place() -> None:
        check_held()
        lease.check()

    return mirror, check_place
