"""The processes of one run: how many, which one this is, and where they meet."""

import dataclasses
import math
import os

import jax

from jaxdp.errors import UserError
from jaxdp.parallel.addresses import bind_address, checked_address
from jaxdp.parallel.devices import backend_has_started

MAX_PROCESSES = 2**16
"""More than any cluster starts: a larger count is a mistake."""


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

    def __post_init__(self):
        """Checks the numbers and the address.

        Raises:
            UserError: names the value and its range.
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
"""One process, as most runs have."""


def connect(processes: Processes, init_timeout_secs: float, heartbeat_secs: float) -> None:
    """Joins the devices of all processes; each must call it before its backend starts.

    JAX's own answer to SIGTERM is switched off: it would replace ours.

    Args:
        processes: more than one, all known to be there.
        init_timeout_secs: after which JAX aborts if one does not come after all.
        heartbeat_secs: after which JAX aborts if one no longer answers.

    Raises:
        UserError: JAX has started in this process without the others, or with other ones.
    """
    if jax.distributed.is_initialized() or backend_has_started():
        joined = (jax.process_count(), jax.process_index())
        if joined != (processes.num_processes, processes.process_index):
            raise UserError(
                f"JAX has already started in this Python process as process {joined[1]} of {joined[0]}, but the run has "
                f"{processes.num_processes} and this is process {processes.process_index}: call jaxdp.train before "
                "anything else uses JAX."
            )
        return  # joined by an earlier run, or by the caller
    jax.config.update("jax_enable_preemption_service", False)
    # On SLURM and Open MPI JAX shares a node's GPUs out among its processes; elsewhere it has
    # nothing to find, and in a Kubernetes pod it would look for what it may not read.
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
