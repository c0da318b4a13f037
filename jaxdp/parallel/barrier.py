"""Barrier between processes outside the step."""

from jax.experimental import multihost_utils

from jaxdp.parallel.devices import Topology


def wait_for_all(name: str, topology: Topology) -> None:
    """Waits until every process has reached this call; files written before are visible to all after it."""
    if topology.num_processes > 1:
        multihost_utils.sync_global_devices(name)
