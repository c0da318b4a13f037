"""Workers of local training: groups of devices with a state each, on the devices and in checkpoints."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdp.parallel.devices import Topology
from jaxdp.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Workers:
    """Division of the devices into workers of equal size.

    Attributes:
        num_devices: Number of devices.
        num_workers: Number of groups; it divides the number of devices.
    """

    num_devices: int
    num_workers: int

    @property
    def group_size(self) -> int:
        """Number of devices of a worker."""
        return self.num_devices // self.num_workers

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Positions of the devices of each worker: neighbours, so that a worker spans few hosts."""
        size = self.group_size
        return tuple(tuple(range(first, first + size)) for first in range(0, self.num_devices, size))

    def describe(self) -> str:
        """Describes the number of workers and of their devices."""
        return f"{self.num_workers} worker{'s'[: self.num_workers > 1]} of {self.group_size} device{'s'[: self.group_size > 1]}"

    def abstract(self, tree: PyTree, topology: Topology) -> PyTree:
        """Returns shapes and shardings `[num_workers, ...]` of a tree in a checkpoint, from those of one worker."""
        mesh = Mesh(np.array(topology.devices).reshape(self.num_workers, self.group_size), ("worker", "member"))
        # Processes save equal or disjoint ranges: where a process has parts of two workers, every process holds all.
        num_local = topology.num_local_devices
        is_aligned = num_local % self.group_size == 0 or self.group_size % num_local == 0
        sharding = NamedSharding(mesh, PartitionSpec("worker") if is_aligned else PartitionSpec())
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((self.num_workers, *leaf.shape), leaf.dtype, sharding=sharding), tree
        )

    def equal(self, tree: PyTree) -> PyTree:
        """Returns `[num_workers, ...]` of workers that all have the same values."""
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[None], (self.num_workers, *leaf.shape)), tree)

    def from_devices(self, tree: PyTree) -> PyTree:
        """Converts `[num_devices, ...]` to `[num_workers, ...]`; the devices of a worker have the same values."""
        return jax.tree.map(lambda leaf: leaf[:: self.group_size], tree)

    def to_devices(self, tree: PyTree) -> PyTree:
        """Converts `[num_workers, ...]` to `[num_devices, ...]`."""
        return jax.tree.map(lambda leaf: jnp.repeat(leaf, self.group_size, axis=0), tree)
