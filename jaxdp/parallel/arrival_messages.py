"""Messages about processes that do not arrive at the control plane: missing, refused or unreachable."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jaxdp.parallel.addresses import is_loopback
from jaxdp.parallel.processes import Processes
from jaxdp.parallel.run_token import VARIABLE


def waiting_message(
    num_processes: int, present: Collection[int], address: str, waited_secs: float, timeout_secs: float
) -> str:
    """Names the processes that have not arrived yet; see `missing_message`."""
    missing = [process for process in range(num_processes) if process not in present]
    return (
        f"waiting for {_listed('process', missing)} of {num_processes} at --coordinator={address}: {waited_secs:.0f} of "
        f"{timeout_secs:g} s (parallel.init_timeout_secs)"
    )


def missing_message(
    num_processes: int,
    hosts: Mapping[int, str],
    address: str,
    timeout_secs: float,
    num_refusals: int,
    last_refusal: str,
) -> str:
    """Names the processes that did not arrive.

    Args:
        num_processes: Number of processes of the run.
        hosts: Hosts of those that arrived, by process in ascending order.
        address: HOST:PORT of process 0.
        timeout_secs: Time in which all had to arrive.
        num_refusals: Number of connections that were refused.
        last_refusal: Address and reason of the last one.
    """
    missing = [process for process in range(num_processes) if process not in hosts]
    here = [f"{process} on {host}" for process, host in hosts.items()]
    refused = f" {_counted(num_refusals)} refused, the last one from {last_refusal}." if num_refusals else ""
    return (
        f"{_listed('process', missing)} of {num_processes} did not come to "
        f"--coordinator={address} within {timeout_secs:g} s (parallel.init_timeout_secs); "
        f"{_listed('process', here)} did.{refused} Read the logs of the missing ones, and check that they can reach that "
        "address."
    )


def refused_message(processes: Processes, host: str, origin: str, error: Exception) -> str:
    """Explains why process 0 refuses this process.

    Args:
        processes: Address of process 0, and which process this is.
        host: Name of this machine.
        origin: Where the run token comes from.
        error: Refusal.
    """
    advice = (
        "set it to the same secret for all processes"
        if origin == VARIABLE
        else "--workdir must be one directory that all machines share and all processes of one user read, or one URL; or set "
        f"{VARIABLE} to the same secret for all of them"
    )
    return (
        f"process {processes.process_index} of {processes.num_processes} on {host} is refused by process 0 at "
        f"--coordinator={processes.coordinator} with the token of {origin}: {error}; {advice}."
    )


def unreachable_message(processes: Processes, host: str, timeout_secs: float, error: Exception) -> str:
    """Explains that process 0 does not respond to this process; see `refused_message`."""
    address = processes.coordinator
    why = f"{address} did not answer within {timeout_secs:g} s (parallel.init_timeout_secs): {error}"
    if processes.process_index == 0:
        return (
            f"process 0 on {host} cannot reach itself, --coordinator={why}; "
            "it must name the machine on which process 0 runs."
        )
    loopback = (
        "; this address is every machine's name for itself, so if process 0 runs on another one, "
        "give the name or number of that"
        if is_loopback(address)
        else ""
    )
    return (
        f"process {processes.process_index} of {processes.num_processes} on {host} misses process 0: "
        f"--coordinator={why}; look at what process 0 says, and whether this machine can reach that "
        f"address{loopback}."
    )


def _counted(number: int) -> str:
    return "One connection was" if number == 1 else f"{number} connections were"


def _listed(noun: str, things: Sequence[Any], limit: int = 8) -> str:
    shown = ", ".join(map(str, things[:limit])) + (f" and {len(things) - limit} more" if len(things) > limit else "")
    return f"{noun}{'es' if len(things) > 1 else ''} {shown}" if things else f"no {noun}"
