"""What processes tell each other without leaving the step.

Beside the batch each step takes one small row per device and returns its
combination over all devices: words to agree on (the largest wins: one process
that wants to stop stops all) and words to add up (hashes of each process's
share of the batch). The result is read with the delayed metrics, so agreement
costs no host sync. Between programs, where nothing is delayed, `compile_agreement`
asks for it alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.parallel.devices import AXIS, Topology
from jaxdp.parallel.placement import abstract_batch, place_per_device
from jaxdp.parallel.spmd import compile_spmd

NUM_LIMBS = 4
"""A 64-bit number travels as four 16-bit limbs, whose sums cannot overflow 32 bits."""

Signals = dict
"""{"request": [] int32, "tally": [NUM_LIMBS] uint32} on one device; `[num_devices, ...]` over all."""


def host_signals(num_local_devices: int, request: int, tally: int = 0) -> Signals:
    """This process's signals, the tally carried by its first device.

    Args:
        num_local_devices: rows to make.
        request: what this process asks for; larger is more urgent, 0 is nothing.
        tally: number below 2**64 to be added over processes, modulo 2**64.

    Returns:
        {"request": [num_local_devices] int32, "tally": [num_local_devices, NUM_LIMBS] uint32}
    """
    limbs = np.zeros((num_local_devices, NUM_LIMBS), np.uint32)
    limbs[0] = [(tally >> (16 * index)) & 0xFFFF for index in range(NUM_LIMBS)]
    return {"request": np.full(num_local_devices, request, np.int32), "tally": limbs}


def signal_maker(topology: Topology) -> Callable[[int, int], Signals]:
    """A function (request, tally) -> signals on the devices; the silent ones are placed once."""

    def place(request: int, tally: int) -> Signals:
        signals = host_signals(topology.num_local_devices, request, tally)
        return {name: place_per_device(array, topology) for name, array in signals.items()}

    silent = place(0, 0)
    return lambda request, tally: place(request, tally) if request or tally else silent


def signals_spec() -> Signals:
    """Shapes of one device's signals."""
    return {
        "request": jax.ShapeDtypeStruct((), jnp.int32),
        "tally": jax.ShapeDtypeStruct((NUM_LIMBS,), jnp.uint32),
    }


def combine(signals: Signals) -> Signals:
    """Largest request and summed tally over all devices; inside an SPMD function."""
    return {
        "request": jax.lax.pmax(signals["request"], AXIS),
        "tally": jax.lax.psum(signals["tally"], AXIS),
    }


def compile_agreement(topology: Topology) -> Callable[[int], int]:
    """A function request -> the largest of all processes; it waits for them, and all must call it equally often."""
    spec = abstract_batch(signals_spec(), topology)
    program = compile_spmd(lambda signals: combine(signals)["request"], topology, spec, mapped=(0,))
    make_signals = signal_maker(topology)
    return lambda request: int(jax.device_get(program(make_signals(request, 0))))


def read_tally(limbs: np.ndarray) -> int:
    """The 64-bit number that `[NUM_LIMBS] uint32` summed limbs stand for."""
    return sum(int(limb) << (16 * index) for index, limb in enumerate(limbs)) % 2**64
