"""Where processes wait for each other outside the step."""

from jax.experimental import multihost_utils

from jaxdp.parallel.devices import Topology


def wait_for_all(name: str, topology: Topology) -> None:
    """Returns when every process has come here; what one wrote before, all can read after."""
    if topology.num_processes > 1:
        multihost_utils.sync_global_devices(name)
