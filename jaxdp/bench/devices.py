"""Device check (`jaxdp devices`): platform, memory, peak and recommended XLA flags of the devices, and a test of the all-reduce."""

import sys

import jax
import jaxlib.version
import numpy as np

from jaxdp.hardware.cores import num_cores
from jaxdp.hardware.peaks import peak_flops
from jaxdp.hardware.xla_flags import recommended_flags
from jaxdp.parallel.devices import (
    AXIS,
    configure_backend,
    init_devices,
)
from jaxdp.parallel.placement import abstract_batch, place_batch
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.report.terminal import quantity
from jaxdp.training.startup_report import memory_of


def describe_devices(cpu_devices: int | None) -> list[tuple[str, str]]:
    """Returns names and values of the hardware, after a successful all-reduce over all devices.

    Args:
        cpu_devices: Number of CPU devices to fake; None: accelerators, or one CPU device per core.

    Raises:
        RuntimeError: The all-reduce returned a wrong sum.
    """
    configure_backend(cpu_devices, num_cores())
    topology = init_devices()
    spec = {"ones": jax.ShapeDtypeStruct((1,), np.float32)}
    program = compile_spmd(
        lambda batch: jax.lax.psum(batch["ones"], AXIS),
        topology,
        abstract_batch(spec, topology),
    )
    ones = np.ones((topology.num_local_devices,), np.float32)
    total = float(program(place_batch({"ones": ones}, topology))[0])
    if total != topology.num_devices:
        raise RuntimeError(
            f"all-reduce of ones over {topology.num_devices} devices returned {total}, expected {topology.num_devices}"
        )
    peak = peak_flops(topology.kind)
    return [
        ("python", sys.version.split()[0]),
        ("jax", f"{jax.__version__}, jaxlib {jaxlib.version.__version__}"),
        ("platform", topology.platform),
        ("devices", f"{topology.num_devices} x {topology.kind}"),
        ("processes", str(topology.num_processes)),
        ("cores", str(num_cores())),
        ("memory", memory_of(topology)),
        ("peak", f"{quantity(peak, 'FLOP/s')} a device in bfloat16" if peak else "not known for this chip"),
        *[("XLA flags", line) for line in recommended_flags(topology.platform) or ["none recommended"]],
        ("all-reduce", f"works over all {topology.num_devices}: this machine can train"),
    ]
