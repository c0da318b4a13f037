"""Process start: locks the work directory, then joins the control plane."""

import contextlib
from collections.abc import Callable

from jaxdp.errors import UserError
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.parallel.processes import Processes
from jaxdp.parallel.run_token import RunToken
from jaxdp.parallel.stored_token import StoredToken
from jaxdp.report.terminal import print_status
from jaxdp.storage.object_store import ObjectStore
from jaxdp.workdir import WorkDir


def join_processes(
    stack: contextlib.ExitStack,
    processes: Processes,
    directory: WorkDir,
    timeout_secs: float,
    store: ObjectStore | None = None,
) -> tuple[ControlPlane, Callable[[], None]]:
    """Locks the work directory on process 0 and connects to the other processes.

    The lock comes first, for process 0 writes the run token under it. Where the
    directory is in use, process 0 still meets the others, with the token that is
    there, so that they end with its sentence and do not wait for it.

    Args:
        stack: Holds the lock and the connection until the run ends.
        processes: Number of processes, and which one this is.
        directory: Work directory.
        timeout_secs: Seconds to wait for all processes.
        store: Work directory in object storage; `directory` is then the mirror of this process, which it locks. None:
            all processes share `directory`.

    Returns:
        (the processes, a function to call before every write into the directory);
        the lock of process 0 stands for all in a shared directory, as it alone writes what processes share.

    Raises:
        UserError: The directory is in use, or a process is missing, wrongly numbered or of another run.
    """
    if processes.num_processes == 1:
        check_held = stack.enter_context(directory.locked())
        return stack.enter_context(ControlPlane.single_process()), check_held
    token = RunToken(directory.run_token) if store is None else StoredToken(store)
    is_main, refusal, check_held = processes.process_index == 0, None, _nothing_to_check
    if is_main or store is not None:
        try:
            check_held = stack.enter_context(directory.locked())
            if is_main:
                token.write()
        except UserError as error:
            refusal = error
    try:
        if refusal and is_main:
            token.write_if_missing()
        control_plane = stack.enter_context(ControlPlane(processes, timeout_secs, _log, token=token))
    except UserError:
        if refusal:
            raise refusal from None
        raise
    if refusal:
        raise refusal
    if is_main:
        token.discard()
    return control_plane, check_held


def _nothing_to_check() -> None:
    """Checks nothing, in a process that holds no lock."""


def _log(sentence: str) -> None:
    """Prints a sentence of the control plane as the command line prints errors."""
    print_status(f"jaxdp: {sentence}")
