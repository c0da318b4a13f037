"""The processes of one run: told by flags, or found in the environment of a cluster."""

import dataclasses
import os
from collections.abc import Mapping

import jax

_CLUSTERS = {
    "SLURM": ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
}
"""Variables with the number of processes and the index of this one."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """What a process knows of its peers before it has met them.

    Attributes:
        num_processes: how many there are.
        process_index: which one this is.
        coordinator: HOST:PORT at which process 0 listens; None: JAX finds it
            in the environment of the cluster.
    """

    num_processes: int
    process_index: int
    coordinator: str | None = None


def cluster_processes(environment: Mapping[str, str] = os.environ) -> Processes | None:
    """The processes that SLURM, Open MPI or a Cloud TPU pod started; None for one alone."""
    for size, index in _CLUSTERS.values():
        if int(environment.get(size) or 1) > 1 and index in environment:
            return Processes(int(environment[size]), int(environment[index]))
    tpu_hosts = [host for host in environment.get("TPU_WORKER_HOSTNAMES", "").split(",") if host]
    if len(tpu_hosts) > 1 and "TPU_WORKER_ID" in environment:
        return Processes(len(tpu_hosts), int(environment["TPU_WORKER_ID"]))
    return None


def connect(processes: Processes) -> None:
    """Joins the other processes of the run; all must call it before their backends start."""
    if processes.coordinator is None:
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(
            processes.coordinator, processes.num_processes, processes.process_index
        )
