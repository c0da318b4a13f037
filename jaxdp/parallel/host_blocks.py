"""Host blocks: the part of each leaf that this process holds, copied to NumPy, and leaves placed from host arrays.

Neither direction communicates or allocates device memory beyond the leaf itself. A block is a contiguous range of
the true array along one axis, whatever the number of devices.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxdp.parallel.layout import REPLICATED, LeafLayout
from jaxdp.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Range:
    """Contiguous range of an array along one axis.

    Attributes:
        axis: Axis of the true shape.
        start: First index.
        stop: Index after the last.
    """

    axis: int
    start: int
    stop: int


def true_shape(shape: Sequence[int], layout: LeafLayout) -> tuple[int, ...]:
    """Returns the true shape of a leaf from the shape that the devices store."""
    if layout.kind != "sharded":
        return tuple(shape)
    whole = list(shape[1:])
    whole[layout.axis] *= shape[0]
    return tuple(whole)


def true_shapes(tree: PyTree, layout: PyTree) -> PyTree:
    """Returns shapes and dtypes of the true arrays of a tree."""
    return jax.tree.map(
        lambda leaf, of_leaf: jax.ShapeDtypeStruct(true_shape(leaf.shape, of_leaf), leaf.dtype), tree, layout
    )


def shard_axes(layout: PyTree) -> list[int | None]:
    """Returns the divided axis of every leaf that is stored as `[num_devices, ...shard...]`; None for the others."""
    return [leaf.axis if leaf.kind == "sharded" else None for leaf in jax.tree.leaves(layout)]


def local_range(leaf: Any, layout: LeafLayout = REPLICATED) -> Range | None:
    """Returns the range of the true array that the devices of this process hold; None: they hold all of it.

    Args:
        leaf: Array or ShapeDtypeStruct with a sharding.
        layout: Layout; replicated also for leaves of true shape whose sharding divides one of their axes.
    """
    shape = true_shape(leaf.shape, layout)
    indices = [_true_index(index, leaf.shape, layout) for index in _local_indices(leaf)]
    for axis, size in enumerate(shape):
        ranges = sorted({index[axis].indices(size)[:2] for index in indices})
        if ranges != [(0, size)] and size:
            start, stop = ranges[0][0], ranges[-1][1]
            if any(before[1] != after[0] for before, after in itertools.pairwise(ranges)):
                raise ValueError("the devices of a process hold no contiguous block")
            return None if stop - start == size else Range(axis, start, stop)
    return None


def host_block(leaf: jax.Array, layout: LeafLayout = REPLICATED) -> np.ndarray:
    """Copies the block of a leaf that this process holds to a NumPy array that no later step overwrites.

    Only shards of this process are read.
    """
    shards: dict[tuple[int, ...], jax.Array] = {}
    for shard in leaf.addressable_shards:
        start = tuple(part.start or 0 for part in _true_index(shard.index, leaf.shape, layout))
        shards.setdefault(start, shard.data)  # of equal copies the first, which checksums are read from
    parts = [np.asarray(shards[start]) for start in sorted(shards)]
    if layout.kind == "sharded":
        return np.concatenate([part[0] for part in parts], axis=layout.axis)
    if len(parts) == 1:
        # On CPU the host array is the device buffer, which the next step reuses.
        on_cpu = leaf.addressable_shards[0].device.platform == "cpu"
        return parts[0].copy() if on_cpu else parts[0]
    first, second = sorted(shards)[:2]
    axis = next(axis for axis in range(leaf.ndim) if first[axis] != second[axis])
    return np.concatenate(parts, axis=axis)


def place_leaf(spec: Any, layout: LeafLayout, array: np.ndarray, held: Range | None = None) -> jax.Array:
    """Places a leaf on the devices from the host.

    Args:
        spec: Shape, dtype and sharding of the leaf as the devices store it.
        layout: Layout; see `local_range`.
        array: The true array, or the range of it that this process needs.
        held: Range of the true array that `array` is; None: all.
    """

    def of_device(index: tuple[slice, ...] | None) -> np.ndarray:
        where = list(_true_index(index or (), spec.shape, layout))
        if held is not None:
            size = true_shape(spec.shape, layout)[held.axis]
            start, stop, _ = where[held.axis].indices(size)
            where[held.axis] = slice(start - held.start, stop - held.start)
        part = array[tuple(where)]
        return part[None] if layout.kind == "sharded" else part

    return jax.make_array_from_callback(spec.shape, spec.sharding, of_device)


def start_copies(leaves: Sequence[jax.Array]) -> None:
    """Starts the copies of all local shards to the host, so that they overlap."""
    for leaf in leaves:
        for shard in leaf.addressable_shards:
            shard.data.copy_to_host_async()


def _local_indices(leaf: Any) -> list[tuple[slice, ...]]:
    return list(leaf.sharding.addressable_devices_indices_map(tuple(leaf.shape)).values())


def _true_index(index: tuple[slice, ...], stored: Sequence[int], layout: LeafLayout) -> tuple[slice, ...]:
    """Converts the index of a shard in the stored array to its index in the true array."""
    if layout.kind != "sharded":
        return tuple(index)
    device, size = index[0].start or 0, stored[1 + layout.axis]
    where = [slice(0, length) for length in stored[1:]]
    where[layout.axis] = slice(device * size, (device + 1) * size)
    return tuple(where)
