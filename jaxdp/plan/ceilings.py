"""Ceilings of a step: the shortest times that arithmetic, memory and links allow, and a model of more devices."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxdp.hardware.accelerators import Accelerator
from jaxdp.parallel.devices import Topology
from jaxdp.plan.work import Work

MEASURED_WIDTH = 1024
"""Width of the matrix product, and of the copy in thousands of rows, that are timed on this machine."""

MEASURED_SECS = 0.3


@dataclasses.dataclass(frozen=True)
class Rates:
    """Highest rates of one device.

    Attributes:
        flops: FLOP/s of matrix products.
        memory: Bytes/s of the memory.
        link: Bytes/s that a device sends to others of its slice or server.
        network: Bytes/s that a device sends to other slices or servers.
        hop_secs: Latency of one step of a ring between neighbours.
        in_server: Devices that the links connect.
        axes: Axes of the torus that a ring winds through; 1: one switch or ring.
        source: Origin of the numbers, in words.
    """

    flops: float
    memory: float
    link: float
    network: float
    hop_secs: float
    in_server: int
    axes: int
    source: str


def published_rates(accelerator: Accelerator) -> Rates:
    """Returns the published rates of an accelerator."""
    return Rates(
        flops=accelerator.peak,
        memory=accelerator.memory_bandwidth,
        link=accelerator.link_bandwidth,
        network=accelerator.network_bandwidth,
        hop_secs=accelerator.hop_secs,
        in_server=accelerator.max_in_server,
        axes=max(accelerator.dimensions, 1),
        source="published peaks (measured matrix products reach about three quarters of them)",
    )


def measured_rates(topology: Topology) -> Rates:
    """Measures a matrix product and a copy on all devices of this machine together, in under a second."""
    matrix = jnp.ones((MEASURED_WIDTH, MEASURED_WIDTH), jnp.float32)
    array = jnp.ones((16, MEASURED_WIDTH, MEASURED_WIDTH), jnp.float32)
    num_bytes, count = array.nbytes, topology.num_local_devices
    product_secs = _fastest(jax.jit(lambda matrix: matrix @ matrix), matrix)
    # In place: a new result would be timed with the page faults of its first use.
    copy_secs = _fastest(jax.jit(lambda array: array + 1, donate_argnums=0), array)
    memory = 2 * num_bytes / copy_secs / count
    return Rates(
        flops=2 * MEASURED_WIDTH**3 / product_secs / count,
        memory=memory,
        link=memory / 2,
        network=memory / 2,
        hop_secs=20e-6,
        in_server=count,
        axes=1,
        source="measured here: a matrix product of 1024 and a copy of 64 MiB",
    )


def _fastest(function: Callable[[jax.Array], jax.Array], array: jax.Array) -> float:
    """Returns the shortest duration of a call on the result of the call before, without the first."""
    array = jax.block_until_ready(function(array))
    shortest, end = math.inf, time.perf_counter() + MEASURED_SECS
    while time.perf_counter() < end:
        start = time.perf_counter()
        array = jax.block_until_ready(function(array))
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Shortest time of a step, by what limits it.

    Attributes:
        compute_secs, memory_secs, link_secs: Time that arithmetic, memory and links need at least.
        overlaps: Whether communication may run during computation.
    """

    compute_secs: float
    memory_secs: float
    link_secs: float
    overlaps: bool

    @property
    def secs(self) -> float:
        """Estimate of the step: the longest of the three, or with communication after computation the sum."""
        computation = max(self.compute_secs, self.memory_secs)
        return max(computation, self.link_secs) if self.overlaps else computation + self.link_secs

    @property
    def limit(self) -> str:
        """Name of the longest of the three."""
        named = {"compute": self.compute_secs, "memory": self.memory_secs, "links": self.link_secs}
        return max(named, key=lambda name: named[name])


def step_time(
    rates: Rates, work: Work, state_bytes: float, gradient_bytes: float, count: int, overlaps: bool
) -> StepTime:
    """Returns the ceilings of a step.

    Args:
        rates: Rates of one device.
        work: Matrix products of one device.
        state_bytes: Bytes of the train state and gradients of one device, which the update reads and writes once.
        gradient_bytes: Bytes that an all-reduce over all devices sums; see `communication_secs`.
        count: Number of devices.
        overlaps: Whether communication may run during computation.
    """
    return StepTime(
        compute_secs=work.flops / rates.flops,
        memory_secs=(work.bytes + 2 * state_bytes) / rates.memory,
        link_secs=communication_secs(rates, gradient_bytes, count),
        overlaps=overlaps,
    )


def communication_secs(rates: Rates, size: float, count: int) -> float:
    """Returns the time of an all-reduce of `size` bytes over `count` devices.

    Inside a server or slice by rings over the links; between servers each device reduces its share over the network. Each
    stage sends `2 (n - 1) / n` of its bytes and waits for `2 (n - 1)` hops along an axis.
    """
    inner = min(count, rates.in_server)
    outer = math.ceil(count / rates.in_server)
    return _ring_secs(size, inner, rates.link, rates.hop_secs, rates.axes) + _ring_secs(
        size / inner, outer, rates.network, 5 * rates.hop_secs, 1
    )


def _ring_secs(size: float, count: int, bandwidth: float, hop_secs: float, axes: int) -> float:
    if count == 1:
        return 0.0
    hops = axes * (count ** (1 / axes) - 1)
    return 2 * (count - 1) / count * size / bandwidth + 2 * hops * hop_secs


DEVICE_COUNTS = tuple(2**power for power in range(13))
"""Numbers of devices of the scaling table: 1 to 4,096."""


def scaling(
    rates: Rates, of_one: StepTime, size: float, counts: Sequence[int] = DEVICE_COUNTS
) -> list[dict[str, float]]:
    """Predicts steps on more devices, each with the batch of one device as planned (weak scaling).

    Args:
        rates: Rates of one device.
        of_one: Ceilings of the planned step.
        size: Bytes that an all-reduce over all devices sums.
        counts: Numbers of devices.

    Returns:
        For each count `devices`, `step_secs`, `link_secs` and `efficiency`: the step time of one device divided by it.
    """
    alone = dataclasses.replace(of_one, link_secs=0.0).secs
    rows = []
    for count in counts:
        timed = dataclasses.replace(of_one, link_secs=communication_secs(rates, size, count))
        rows.append(
            {"devices": count, "step_secs": timed.secs, "link_secs": timed.link_secs, "efficiency": alone / timed.secs}
        )
    return rows
