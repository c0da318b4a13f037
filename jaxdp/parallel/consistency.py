"""Whether all devices still hold the same state.

A replicated array is only believed to be equal everywhere: after a bit has
flipped in one device's memory, or a program has returned what differs per
device, it still looks replicated, and reading it gives one device's copy. So
each device takes checksums of its own copy, and all are compared.
"""

import dataclasses
from collections import Counter
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

    A program of its own, not a part of the step: run every hundred steps it costs
    a hundredth of what it would cost in each, and a branch in the step would make
    a GPU wait for the host.

    Args:
        abstract: shapes and shardings of the tree to come.
        topology: the devices.

    Returns:
        tree -> [num_devices, num_leaves] uint32, the same on all devices, in the
        order of `topology.devices` and of the tree. The call does not wait.
    """

    def gather(tree: PyTree, _) -> jax.Array:
        return jax.lax.all_gather(leaf_checksums(tree), AXIS)

    # pmap learns the number of devices from a mapped argument, so there is one.
    spec = abstract_batch({"nothing": jax.ShapeDtypeStruct((), jnp.int32)}, topology)["nothing"]
    nothing = place_per_device(np.zeros(topology.num_local_devices, np.int32), topology)
    program = compile_spmd(gather, topology, abstract, spec, mapped=(1,))
    return lambda tree: program(tree, nothing)


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """One leaf of which not all devices hold the same values.

    Attributes:
        leaf: its name.
        devices: positions in `topology.devices` of those that differ from the
            majority; of all, where no value has a majority.
        has_majority: whether more than half of the devices agree.
    """

    leaf: str
    devices: tuple[int, ...]
    has_majority: bool


def find_disagreements(checksums: np.ndarray, names: Sequence[str]) -> list[Disagreement]:
    """Every leaf whose checksums are not equal.

    Args:
        checksums: [num_devices, num_leaves] uint32.
        names: of the leaves, [num_leaves].
    """
    found = []
    for leaf in np.flatnonzero((checksums != checksums[:1]).any(axis=0)):
        column = checksums[:, leaf]
        value, count = Counter(column.tolist()).most_common(1)[0]
        has_majority = 2 * count > len(column)
        differ = column != value if has_majority else np.ones(len(column), bool)
        found.append(Disagreement(names[leaf], tuple(np.flatnonzero(differ).tolist()), has_majority))
    return found


def describe_disagreements(found: Sequence[Disagreement], topology: Topology) -> str:
    """Devices and leaves in words: `device 3 (process 1) differs from the other 7 in params/kernel`."""
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
