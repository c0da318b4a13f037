"""From host arrays to global device arrays.

The state is the same on every device (`PartitionSpec()`); a batch is
`[num_devices, device_batch, ...]` with entry d on device d. Each process
brings only its own rows.
"""

import jax
import numpy as np

from jaxdp.parallel.devices import Topology
from jaxdp.typing import HostBatch, PyTree


def abstract_replicated(tree: PyTree, topology: Topology) -> PyTree:
    """The same tree as shapes, dtypes and replicated shardings: what to compile or restore for."""
    sharding = topology.replicated
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def place_batch(batch: HostBatch, topology: Topology) -> dict[str, jax.Array]:
    """This process's rows `[process_batch, ...]` -> global `[num_devices, device_batch, ...]`."""
    local = topology.num_local_devices
    return {
        name: place_per_device(array.reshape(local, array.shape[0] // local, *array.shape[1:]), topology)
        for name, array in batch.items()
    }


def place_per_device(array: np.ndarray, topology: Topology) -> jax.Array:
    """`[num_local_devices, ...]` of this process -> global `[num_devices, ...]`."""
    return jax.make_array_from_process_local_data(
        topology.per_device, array, (topology.num_devices, *array.shape[1:])
    )


def abstract_batch(spec: dict[str, jax.ShapeDtypeStruct], topology: Topology) -> dict:
    """Per-device specs `[device_batch, ...]` -> global `[num_devices, device_batch, ...]`."""
    sharding = topology.per_device
    return {
        name: jax.ShapeDtypeStruct((topology.num_devices, *leaf.shape), leaf.dtype, sharding=sharding)
        for name, leaf in spec.items()
    }
