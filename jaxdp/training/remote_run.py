"""Run whose work directory is in object storage: checks of the URL, the lease, and the mirror on this machine."""

import contextlib
import dataclasses
import os
from collections.abc import Callable

from jaxdp.checkpoint.mirror import Mirror
from jaxdp.checkpoint.mirror_files import mirror_directory
from jaxdp.checkpoint.process_mirror import ProcessMirror
from jaxdp.checkpoint.run_mirror import RunMirror, mirror_name
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.parallel.processes import Processes
from jaxdp.report.terminal import print_status
from jaxdp.storage.cloud_store import open_store
from jaxdp.storage.held_lease import HeldLease
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
        directory: Mirror of this process on this machine; processes of one machine have different ones.
    """

    store: ObjectStore
    directory: WorkDir


def open_remote_run(workdir: str | os.PathLike[str], processes: Processes) -> RemoteRun | None:
    """Opens a work directory in object storage, before anything is made here or there; None for a local path.

    Raises:
        UserError: The URL is invalid, or a package is missing.
        StorageError: The bucket cannot be reached or read.
    """
    check_scheme(workdir, OPTION)
    if not is_remote(workdir):
        return None
    location = remote_location(str(workdir), OPTION)
    store = open_store(location, OPTION)
    store.list("logs")
    purpose = f"process_{processes.process_index}" if processes.process_index else "run"
    return RemoteRun(store, WorkDir(mirror_directory(location, purpose), OPTION, location.url))


def mirrored(
    stack: contextlib.ExitStack, remote: RemoteRun, control_plane: ControlPlane, check_held: Callable[[], None]
) -> tuple[Mirror, Callable[[], None]]:
    """Acquires the lease of a work directory in process 0, and restores the mirror of each process, whose lock it holds.

    Args:
        stack: Holds the lease and the mirror until the run ends.
        remote: The work directory.
        control_plane: Control plane of the run's processes, which all call this.
        check_held: Check that the lock of the mirror is held.

    Returns:
        (the mirror, a function to call before every write into it).

    Raises:
        UserError: Another run trains there.
        StorageError: The bucket cannot be reached or written.
    """
    store, directory, process = remote.store, remote.directory, control_plane.process_index
    if not control_plane.is_main_process:
        session = control_plane.broadcast(None)
        mirror = ProcessMirror(directory, store, HeldLease(store, session), process, print_status)
        return stack.enter_context(mirror), check_held
    lease = stack.enter_context(Lease(store, mirror_name(directory), OPTION, print_status=print_status))
    mirror = stack.enter_context(RunMirror(directory, store, lease, print_status))
    control_plane.broadcast(lease.session)  # the store has what the others download

    def check_place() -> None:
        check_held()
        lease.check()

    return mirror, check_place
