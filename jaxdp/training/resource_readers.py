"""Resource readers of a run: what the sampler reads on this platform."""

import jax

from jaxdp.errors import UserError
from jaxdp.hardware.nvml import gpu_reader
from jaxdp.hardware.resources import Reader, cpu_reader, device_memory_reader, read_host_memory
from jaxdp.parallel.devices import Topology
from jaxdp.report.terminal import print_status


def resource_readers(topology: Topology) -> list[tuple[str, Reader]]:
    """Returns (what the values are, reader) pairs for this process and its devices."""
    readers: list[tuple[str, Reader]] = [("the memory of this process", read_host_memory), ("CPU time", cpu_reader())]
    devices = [device for device in topology.devices if device.process_index == jax.process_index()]
    if memory := device_memory_reader(devices):
        readers.append(("the memory of the devices", memory))
    if topology.platform == "gpu" and "NVIDIA" in topology.kind.upper():
        try:
            readers.append(("the state of the GPUs", gpu_reader([device.local_hardware_id for device in devices])))
        except UserError as error:
            print_status(str(error))
    return readers
