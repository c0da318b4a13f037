"""Processes of a run: count, index and coordinator address, and the connection of JAX between them."""

import dataclasses
import math
import os

import jax

from jaxdp.errors import UserError
from jaxdp.parallel.addresses import bind_address, checked_address
from jaxdp.parallel.devices import backend_has_started

MAX_PROCESSES = 2**16
"""Maximum number of processes; a larger count is a mistake."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Number of processes, index of this one and address of process 0, known before they connect.

    Attributes:
        num_processes: Number of processes.
        process_index: Index of this process.
        coordinator: HOST:PORT at which process 0 listens; empty for a single process.
    """

    num_processes: int = 1
    process_index: int = 0
    coordinator: str = ""

    def __post_init__(self):
        """Checks the numbers and the address.

        Raises:
            UserError: A value is out of range.
        """
        if not 1 <= self.num_processes <= MAX_PROCESSES:
            raise UserError(f"the number of processes must be from 1 to {MAX_PROCESSES}, found {self.num_processes}.")
        if not 0 <= self.process_index < self.num_processes:
            raise UserError(
                f"the index of a process must be from 0 to {self.num_processes - 1}, for the {self.num_processes} "
                f"of this run, found {self.process_index}."
            )
        if self.coordinator:
            checked_address(self.coordinator, "--coordinator")


ALONE = Processes()
"""Single-process run."""


def connect(processes: Processes, init_timeout_secs: float, heartbeat_secs: float) -> None:
    """Connects JAX between all processes; each must call it before its backend starts.

    JAX's SIGTERM handler is disabled, since it would replace that of jaxdp.

    Args:
        processes: More than one process, all of them running.
        init_timeout_secs: Seconds after which JAX aborts if a process does not connect.
        heartbeat_secs: Seconds after which JAX aborts if a process no longer responds.

    Raises:
        UserError: JAX has already started in this process, alone or with other processes.
    """
    if jax.distributed.is_initialized() or backend_has_started():
        joined = (jax.process_count(), jax.process_index())
        if joined != (processes.num_processes, processes.process_index):
            raise UserError(
                f"JAX has already started in this Python process as process {joined[1]} of {joined[0]}, but the run has "
                f"{processes.num_processes} and this is process {processes.process_index}: call jaxdp.train before "
                "anything else uses JAX."
            )
        return  # connected by an earlier run, or by the caller
    jax.config.update("jax_enable_preemption_service", False)
    # On SLURM and Open MPI JAX divides the GPUs of a node among its processes. Elsewhere cluster
    # detection finds nothing, and in a Kubernetes pod it would need permissions that it lacks.
    shared_nodes = any(name in os.environ for name in ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK"))
    jax.distributed.initialize(
        processes.coordinator,
        processes.num_processes,
        processes.process_index,
        cluster_detection_method=None if shared_nodes else "deactivate",
        initialization_timeout=math.ceil(init_timeout_secs),
        heartbeat_timeout_seconds=math.ceil(heartbeat_secs),
        coordinator_bind_address=None if processes.process_index else bind_address(processes.coordinator),
    )
