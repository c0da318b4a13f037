"""Placement of host arrays as global device arrays.

The state is replicated (`PartitionSpec()`); a batch is `[num_devices, device_batch,
...]` with entry d on device d. Each process provides only its own examples.
"""

import jax
import numpy as np

from jaxdp.parallel.devices import Topology
from jaxdp.parallel.first_execution import transfer
from jaxdp.typing import HostBatch, PyTree


def abstract_replicated(tree: PyTree, topology: Topology) -> PyTree:
    """Returns shapes, dtypes and replicated shardings of a tree, to compile programs or restore checkpoints for."""
    sharding = topology.replicated
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def place_batch(batch: HostBatch, topology: Topology) -> dict[str, jax.Array]:
    """Places this process's examples `[process_batch, ...]` as global `[num_devices, device_batch, ...]`."""
    local = topology.num_local_devices
    return {
        name: place_per_device(array.reshape(local, array.shape[0] // local, *array.shape[1:]), topology)
        for name, array in batch.items()
    }


def place_per_device(array: np.ndarray, topology: Topology) -> jax.Array:
    """Places `[num_local_devices, ...]` of this process as global `[num_devices, ...]`."""
    shape = (topology.num_devices, *array.shape[1:])
    return transfer(
        lambda: jax.make_array_from_process_local_data(topology.per_device, array, shape), topology.platform
    )  # fmt: skip


def abstract_batch(spec: dict[str, jax.ShapeDtypeStruct], topology: Topology) -> dict:
    """Returns the global specs `[num_devices, device_batch, ...]` of per-device specs `[device_batch, ...]`."""
    sharding = topology.per_device
    return {
        name: jax.ShapeDtypeStruct((topology.num_devices, *leaf.shape), leaf.dtype, sharding=sharding)
        for name, leaf in spec.items()
    }
