"""Control word of a step: the values on which processes agree without a host synchronisation.

Next to the batch each step takes one control word per device and returns its
reduction over all devices: the largest request (one process that must stop stops
all of them) and the sum of the batch hashes. The result is read with the delayed
metrics. Between programs, where no metrics are delayed, `compile_agreement` reduces
a request alone.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.parallel.devices import AXIS, Topology
from jaxdp.parallel.placement import abstract_batch, place_per_device
from jaxdp.parallel.spmd import compile_spmd

NUM_PARTS = 4
"""16-bit parts of a 64-bit number; a sum of parts over the devices cannot overflow 32 bits."""

ControlWord = dict
"""{"request": [] int32, "batch_hash": [NUM_PARTS] uint32} on one device; `[num_devices, ...]` over all."""


def host_control_word(num_local_devices: int, request: int, batch_hash: int = 0) -> ControlWord:
    """Builds this process's control word, with the hash on its first device.

    Args:
        num_local_devices: Number of rows.
        request: Request of this process; a larger one is more urgent, 0 is none.
        batch_hash: Number below 2**64 that is added over processes, modulo 2**64.

    Returns:
        {"request": [num_local_devices] int32, "batch_hash": [num_local_devices, NUM_PARTS] uint32}
    """
    parts = np.zeros((num_local_devices, NUM_PARTS), np.uint32)
    parts[0] = [(batch_hash >> (16 * index)) & 0xFFFF for index in range(NUM_PARTS)]
    return {"request": np.full(num_local_devices, request, np.int32), "batch_hash": parts}


def control_word_maker(topology: Topology) -> Callable[[int, int], ControlWord]:
    """Returns a function (request, batch hash) -> control word on the devices; that of zeros is placed once."""

    def place(request: int, batch_hash: int) -> ControlWord:
        control_word = host_control_word(topology.num_local_devices, request, batch_hash)
        return {name: place_per_device(array, topology) for name, array in control_word.items()}

    idle = place(0, 0)
    return lambda request, batch_hash: place(request, batch_hash) if request or batch_hash else idle


def control_word_spec() -> ControlWord:
    """Returns the shapes of one device's control word."""
    return {
        "request": jax.ShapeDtypeStruct((), jnp.int32),
        "batch_hash": jax.ShapeDtypeStruct((NUM_PARTS,), jnp.uint32),
    }


def reduce_control_word(control_word: ControlWord) -> ControlWord:
    """Reduces a control word over all devices: largest request, summed hash parts; for use inside an SPMD function."""
    return {
        "request": jax.lax.pmax(control_word["request"], AXIS),
        "batch_hash": jax.lax.psum(control_word["batch_hash"], AXIS),
    }


def compile_agreement(topology: Topology) -> Callable[[int], int]:
    """Compiles a function request -> largest request of all processes.

    The function waits for the other processes; every process must call it equally often.
    """
    spec = abstract_batch(control_word_spec(), topology)
    program = compile_spmd(lambda control_word: reduce_control_word(control_word)["request"], topology, spec)
    make_control_word = control_word_maker(topology)
    return lambda request: int(jax.device_get(program(make_control_word(request, 0))))


def join_parts(parts: np.ndarray) -> int:
    """Returns the 64-bit number that `[NUM_PARTS] uint32` summed parts stand for."""
    return sum(int(part) << (16 * index) for index, part in enumerate(parts)) % 2**64
