"""The processes of one run: how many, which one this is, and where they meet."""

import dataclasses
import ipaddress
import os

import jax


@dataclasses.dataclass(frozen=True)
class Processes:
    """What a process knows of its peers before it has met them.

    Attributes:
        num_processes: how many there are.
        process_index: which one this is.
        coordinator: HOST:PORT at which process 0 listens; empty for one alone.
    """

    num_processes: int = 1
    process_index: int = 0
    coordinator: str = ""


ALONE = Processes()
"""One process, as most runs have."""


def is_loopback(coordinator: str) -> bool:
    """Whether HOST:PORT leads every machine to itself."""
    host = coordinator.rpartition(":")[0].strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def connect(processes: Processes, init_timeout_secs: float, heartbeat_secs: float) -> None:
    """Joins the devices of all processes; each must call it before its backend starts.

    JAX's own answer to SIGTERM is switched off: it would replace ours.

    Args:
        processes: more than one, all known to be there.
        init_timeout_secs: after which JAX aborts if one does not come after all.
        heartbeat_secs: after which JAX aborts if one no longer answers.
    """
    jax.config.update("jax_enable_preemption_service", False)
    # On SLURM and Open MPI JAX shares a node's GPUs out among its processes; elsewhere it has
    # nothing to find, and in a Kubernetes pod it would look for what it may not read.
    shared_nodes = any(name in os.environ for name in ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK"))
    jax.distributed.initialize(
        processes.coordinator,
        processes.num_processes,
        processes.process_index,
        cluster_detection_method=None if shared_nodes else "deactivate",
        initialization_timeout=int(init_timeout_secs),
        heartbeat_timeout_seconds=int(heartbeat_secs),
    )
