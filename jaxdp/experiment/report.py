"""The short report before step 1."""

import os

import jax

from jaxdp.model import TransformerConfig
from jaxdp.parallel.devices import BatchShape, Topology
from jaxdp.terminal import memory_size, quantity


def devices_line(topology: Topology) -> str:
    """Devices and processes."""
    processes = _counted(topology.num_processes, "process", "processes")
    return f"{topology.num_devices} x {topology.kind} ({processes}), jax {jax.__version__}"


def model_line(config: TransformerConfig, num_parameters: int, preset: str) -> str:
    """Shape and size of the model."""
    heads = _counted(config.num_heads, "head")
    if config.num_kv_heads != config.num_heads:
        heads += f" on {_counted(config.num_kv_heads, 'key-value head')}"
    return (
        f"{preset}: {num_parameters:,} parameters; {_counted(config.num_layers, 'layer')}, {heads}, "
        f"{config.embed_dim} wide, context {config.max_length}, {config.dtype}"
    )


def batch_line(shape: BatchShape, length: int) -> str:
    """global batch = devices x microbatch x microbatches."""
    return (
        f"{_counted(shape.global_batch_size, 'row')} = {_counted(shape.num_devices, 'device')} x "
        f"{_counted(shape.num_microbatches, 'microbatch', 'microbatches')} x "
        f"{_counted(shape.microbatch_size, 'row')}; {shape.global_batch_size * length:,} tokens a step"
    )


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def memory_line(device_bytes: int, topology: Topology) -> str:
    """What the step needs on a device against what the device has."""
    return f"{memory_size(device_bytes)} a device of {memory_of(topology)}"


def memory_of(topology: Topology) -> str:
    """Memory of one device; CPU devices share the host's."""
    if topology.platform == "cpu":
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return f"{memory_size(total)} host memory, shared by {topology.num_local_devices}"
    limit = (topology.devices[0].memory_stats() or {}).get("bytes_limit")
    return memory_size(limit) if limit else "unknown size"


def compute_line(flops_per_step: float, compile_secs: float) -> str:
    """Arithmetic of a step and time to compile."""
    return f"{quantity(flops_per_step, 'FLOP')} a step; compiled in {compile_secs:.1f} s"
