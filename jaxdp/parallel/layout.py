"""Layout of a train state on the devices: each leaf replicated, sharded along one of its axes, or one value per device.

Axes of the SPMD programs, shardings, abstract states, initialisation, the replica check and the form on disk follow
from the layout. A sharded leaf `[..., n, ...]` is stored as `[num_devices, ..., n / num_devices, ...]`: a program sees
the shard of its device. `to_true` and `from_true` convert between that and the true shape, in which checkpoints keep
every leaf whatever the number of devices.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxdp.parallel.devices import AXIS, Topology
from jaxdp.trees import is_scanned, leaf_name, named_leaves
from jaxdp.typing import PyTree

MIN_SHARDED_ELEMENTS = 4096
"""Smallest parameter of one layer that is sharded; norm scales and biases are replicated, since gathering them costs
more than it saves."""


@dataclasses.dataclass(frozen=True)
class LeafLayout:
    """Layout of one leaf.

    Attributes:
        kind: Whether all devices hold the same value, a shard of it, or a value of their own.
        axis: Axis of the true shape that is divided among the devices; of sharded leaves.
    """

    kind: Literal["replicated", "sharded", "per_device"]
    axis: int = 0


REPLICATED = LeafLayout("replicated")
PER_DEVICE = LeafLayout("per_device")


def sharded(axis: int) -> LeafLayout:
    """Returns the layout of a leaf that is divided along `axis`."""
    return LeafLayout("sharded", axis)


def shard_axis(name: str, shape: tuple[int, ...], num_devices: int) -> int | None:
    """Chooses the axis to divide a parameter along: the largest that the device count divides.

    The layer axis of a scanned stack is not divided, so scanned and unrolled layers have the same layout.

    Args:
        name: Path of the parameter.
        shape: True shape, `[num_layers, ...]` in a scanned stack.
        num_devices: Number of shards.

    Returns:
        The axis; None: the parameter is small, or no axis divides, so it stays replicated.
    """
    first = int(is_scanned(name))
    if num_devices == 1 or math.prod(shape[first:]) < MIN_SHARDED_ELEMENTS:
        return None
    axes = [axis for axis in range(first, len(shape)) if shape[axis] % num_devices == 0]
    return max(axes, key=lambda axis: (shape[axis], -axis), default=None)


def replicated_layout(tree: PyTree) -> PyTree:
    """Returns the layout in which every leaf is replicated."""
    return jax.tree.map(lambda _: REPLICATED, tree)


def is_replicated(layout: PyTree) -> bool:
    """Returns whether all leaves are replicated."""
    return all(leaf == REPLICATED for leaf in jax.tree.leaves(layout))


def params_layout(params: PyTree, num_devices: int) -> PyTree:
    """Returns the layout in which every parameter is sharded that `shard_axis` divides; the others are replicated."""

    def layout(path, leaf) -> LeafLayout:
        axis = shard_axis(leaf_name(path), leaf.shape, num_devices)
        return REPLICATED if axis is None else sharded(axis)

    return jax.tree.map_with_path(layout, params)


def layout_like(tree: PyTree, params: PyTree, of_params: PyTree) -> PyTree:
    """Returns the layout of an optimizer state: that of a parameter for each leaf of its path and shape, else replicated.

    Args:
        tree: Optimizer state, or its shapes.
        params: Parameters, or their true shapes.
        of_params: Layout of the parameters.
    """
    known = {
        name: (leaf.shape, layout)
        for (name, leaf), layout in zip(named_leaves(params), jax.tree.leaves(of_params), strict=True)
    }

    def layout(path, leaf) -> LeafLayout:
        parts = leaf_name(path).split("/")
        for start in range(len(parts)):
            shape, found = known.get("/".join(parts[start:]), (None, REPLICATED))
            if shape == leaf.shape:
                return found
        return REPLICATED

    return jax.tree.map_with_path(layout, tree)


def abstract_in(tree: PyTree, layout: PyTree, topology: Topology) -> PyTree:
    """Returns shapes, dtypes and shardings of a tree on the devices.

    Args:
        tree: Arrays or shapes; of a leaf per device, the value of one device.
        layout: Layout of each leaf.
        topology: Devices.
    """

    def abstract(leaf, layout: LeafLayout) -> jax.ShapeDtypeStruct:
        shape = stored_shape(leaf.shape, layout, topology.num_devices)
        sharding = topology.replicated if layout.kind == "replicated" else topology.per_device
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(abstract, tree, layout)


def abstract_true(tree: PyTree, layout: PyTree, topology: Topology) -> PyTree:
    """Returns true shapes, dtypes and shardings of a tree: the form of a checkpoint.

    Args:
        tree: Arrays or shapes; of a leaf per device, the value of one device. It keeps its device axis.
        layout: Layout of each leaf.
        topology: Devices.
    """

    def abstract(leaf, layout: LeafLayout) -> jax.ShapeDtypeStruct:
        shape = (topology.num_devices, *leaf.shape) if layout == PER_DEVICE else leaf.shape
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=_true_sharding(layout, topology))

    return jax.tree.map(abstract, tree, layout)


def _true_sharding(layout: LeafLayout, topology: Topology) -> NamedSharding:
    if layout.kind == "per_device":
        return topology.per_device
    spec = PartitionSpec(*[None] * layout.axis, AXIS) if layout.kind == "sharded" else PartitionSpec()
    return NamedSharding(topology.mesh, spec)


def stored_shape(shape: tuple[int, ...], layout: LeafLayout, num_devices: int) -> tuple[int, ...]:
    """Returns the shape in which the devices store a leaf of this true shape."""
    if layout.kind == "replicated":
        return tuple(shape)
    if layout.kind == "per_device":
        return (num_devices, *shape)
    part = list(shape)
    part[layout.axis] //= num_devices
    return (num_devices, *part)


def device_axes(specs: PyTree) -> PyTree:
    """Returns the mapped axis of every leaf of a tree with shardings: 0 if it has a device axis, None if it is replicated.

    A tree of leaves that are all alike gets a single value.
    """
    axes = [None if leaf.sharding.spec == PartitionSpec() else 0 for leaf in jax.tree.leaves(specs)]
    if len(set(axes)) <= 1:
        return axes[0] if axes else None
    return jax.tree.unflatten(jax.tree.structure(specs), axes)


def from_true(tree: PyTree, layout: PyTree, num_devices: int) -> PyTree:
    """Converts leaves of true shape to the form on the devices; can be traced by JAX.

    A value per device starts with the same value on every device.
    """
    return jax.tree.map(functools.partial(_split, num_devices=num_devices), tree, layout)


def to_true(tree: PyTree, layout: PyTree) -> PyTree:
    """Converts leaves from the form on the devices to their true shape; can be traced by JAX."""
    return jax.tree.map(_joined, tree, layout)


def _split(leaf: jax.Array, layout: LeafLayout, num_devices: int) -> jax.Array:
    if layout.kind == "replicated":
        return leaf
    if layout.kind == "per_device":
        return jnp.broadcast_to(leaf[None], (num_devices, *leaf.shape))
    shape, axis = leaf.shape, layout.axis
    parts = leaf.reshape(*shape[:axis], num_devices, shape[axis] // num_devices, *shape[axis + 1 :])
    return jnp.moveaxis(parts, axis, 0)


def _joined(leaf: jax.Array, layout: LeafLayout) -> jax.Array:
    if layout.kind != "sharded":
        return leaf
    axis = layout.axis
    parts = jnp.moveaxis(leaf, 0, axis)
    return parts.reshape(*parts.shape[:axis], -1, *parts.shape[axis + 2 :])


def placed_by(make: Callable[..., PyTree], specs: PyTree) -> Callable[..., PyTree]:
    """Compiles a function whose results have the shardings of `specs`; each device computes its own part."""
    return jax.jit(make, out_shardings=jax.tree.map(lambda spec: spec.sharding, specs))


def replicated_leaves(tree: PyTree, layout: PyTree) -> list[tuple[str, Any]]:
    """Returns names and leaves of the replicated part of a tree, in tree order: what must be equal on all devices."""
    layouts = jax.tree.leaves(layout)
    return [named for named, of_leaf in zip(named_leaves(tree), layouts, strict=True) if of_leaf == REPLICATED]


def sharded_axes(layout: PyTree) -> dict[str, int]:
    """Returns the axis of every sharded parameter of one layer, by its path with `*` in place of the layer.

    Axes do not count the layer axis of scanned layers, so scanned and unrolled layers give the same.
    """
    return {
        any_layer(name): of_leaf.axis - is_scanned(name)
        for name, of_leaf in named_leaves(layout)
        if of_leaf.kind == "sharded"
    }


def any_layer(name: str) -> str:
    """Returns a path of a parameter with `*` in place of the layer: `layer_3/mlp` and `layers/mlp` become `*/mlp`."""
    return re.sub(r"(^|/)(layer_\d+|layers)(/|$)", r"\1*\3", name)
