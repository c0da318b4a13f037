"""Replica check: compares the checksums of a replicated state over all devices.

JAX assumes that a replicated array is equal on all devices. After a bit flip in the
memory of one device, or a program that returns different values per device, the
array still looks replicated, and reading it returns the copy of one device. So each
device computes the checksums of its own copy, and all of them are compared.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.checksum import leaf_checksums
from jaxdp.parallel.devices import AXIS, Topology
from jaxdp.parallel.placement import abstract_batch, place_per_device
from jaxdp.parallel.spmd import compile_spmd
from jaxdp.typing import PyTree


def compile_checksums(abstract: PyTree, topology: Topology) -> Callable[[PyTree], jax.Array]:
    """Compiles the checksums of every device's own copy of a replicated tree.

    It is a separate program, since a branch in the step would make a GPU wait for the
    host, and checksums in every step would cost a hundred times as much as in every
    hundredth.

    Args:
        abstract: Shapes and shardings of the tree; every leaf is replicated.
        topology: Devices.

    Returns:
        Function tree -> [num_devices, num_leaves] uint32, the same on all devices, in the
        order of `topology.devices` and of the tree. The call does not wait.
    """

    def gather(tree: PyTree, _) -> jax.Array:
        return jax.lax.all_gather(leaf_checksums(tree), AXIS)

    # pmap needs a mapped argument to determine the number of devices.
    spec = abstract_batch({"nothing": jax.ShapeDtypeStruct((), jnp.int32)}, topology)["nothing"]
    nothing = place_per_device(np.zeros(topology.num_local_devices, np.int32), topology)
    program = compile_spmd(gather, topology, abstract, spec)
    return lambda tree: program(tree, nothing)


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """Leaf whose values differ between devices.

    Attributes:
        leaf: Name of the leaf.
        devices: Positions in `topology.devices` of the devices that differ from the
            majority; all devices if no value has a majority.
        has_majority: Whether more than half of the devices agree.
    """

    leaf: str
    devices: tuple[int, ...]
    has_majority: bool


def find_disagreements(checksums: np.ndarray, names: Sequence[str]) -> list[Disagreement]:
    """Finds the leaves whose checksums differ between devices.

    Args:
        checksums: [num_devices, num_leaves] uint32.
        names: Names of the leaves, [num_leaves].
    """
    found = []
    for leaf in np.flatnonzero((checksums != checksums[:1]).any(axis=0)).tolist():
        column = checksums[:, leaf]
        values, counts = np.unique(column, return_counts=True)
        has_majority = bool(2 * counts.max() > len(column))
        differ = column != values[counts.argmax()] if has_majority else np.ones(len(column), bool)
        found.append(Disagreement(names[leaf], tuple(np.flatnonzero(differ).tolist()), has_majority))
    return found


def describe_disagreements(found: Sequence[Disagreement], topology: Topology) -> str:
    """Describes devices and leaves: `device 3 (process 1) differs from the other 7 in params/kernel`."""
    by_devices: dict[tuple, list[str]] = {}
    for disagreement in found:
        by_devices.setdefault((disagreement.devices, disagreement.has_majority), []).append(disagreement.leaf)
    parts = []
    for (positions, has_majority), leaves in by_devices.items():
        devices = [topology.devices[position] for position in positions]
        names = ", ".join(f"{device.id} (process {device.process_index})" for device in devices)
        who = f"device {names} differs" if len(devices) == 1 else f"devices {names} differ"
        others = topology.num_devices - len(devices)
        whom = f"from the other {others}" if has_majority else "from each other, with no majority that could be right,"
        shown = ", ".join(leaves[:4]) + (f" and {len(leaves) - 4} more" if len(leaves) > 4 else "")
        parts.append(f"{who} {whom} in {shown}")
    return "; ".join(parts)
