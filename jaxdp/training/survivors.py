"""Continuation without a lost process: the command that lets the remaining processes train on."""

import threading
from collections.abc import Callable
from pathlib import Path

from jaxdp.checkpoint.manifest import committed_steps
from jaxdp.parallel.devices import Topology

READ_SECS = 2.0
"""Longest time to look for checkpoints: the file system may be what the lost process took along."""


def advice_without_one(checkpoints: Path | None, topology: Topology, global_batch_size: int) -> Callable[[], str]:
    """Returns a function that says how the others continue without one process; empty if the batch does not divide over them.

    Args:
        checkpoints: Directory of the checkpoints; None: this machine does not have the newest one.
        topology: Devices of all processes, the same number in each.
        global_batch_size: Examples of one update.
    """
    others = topology.num_processes - 1
    num_devices = others * topology.num_local_devices

    def advice() -> str:
        if not others or global_batch_size % num_devices:
            return ""
        where = "from the newest checkpoint" if checkpoints is None else _where(checkpoints)
        if not where:
            return ""
        how = (
            f"--num_processes={others} and --process_index=0 to {others - 1}"
            if others > 1
            else "the same command without --coordinator, --num_processes and --process_index"
        )
        who = f"{others} processes" if others > 1 else "one process"
        return f"If it does not come back, {who} can continue without it {where}: start with {how}"

    return advice


def _where(checkpoints: Path) -> str:
    """Returns where a run continues; empty if the directory does not answer."""
    found: list[list[int]] = []
    reader = threading.Thread(target=lambda: found.append(committed_steps(checkpoints)), daemon=True)
    reader.start()
    reader.join(READ_SECS)
    if not found:
        return ""
    return f"from checkpoint {found[0][-1]}" if found[0] else "from the start, as nothing is saved yet"
