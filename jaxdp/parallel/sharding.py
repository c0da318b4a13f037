"""Collectives of sharded parameters: gathered where they are used, gradients summed and scattered.

Source: Rajbhandari et al. 2020, ZeRO, section 5 (stages 1 and 3). For use inside SPMD programs.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxdp.parallel.devices import AXIS
from jaxdp.parallel.layout import REPLICATED, LeafLayout, any_layer, layout_like, sharded_axes
from jaxdp.trees import leaf_name
from jaxdp.typing import PyTree


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def gather_parameter(shard: jax.Array, axis: int, sent: str | None = None, returned: str | None = None) -> jax.Array:
    """Gathers a parameter from the shards of all devices.

    Its gradient is summed over the devices, and each device receives its shard of the sum. The sum is in the dtype of the shard,
    although the parameter is sent in `sent`.

    Args:
        shard: This device's shard, `[..., n / num_devices, ...]`.
        axis: Axis that is divided.
        sent: Dtype in which the parameter is sent; None: its own.
        returned: Dtype in which it is returned, and in which this device sums its gradient; None: `sent`.

    Returns:
        The parameter, `[..., n, ...]`.
    """
    whole = jax.lax.all_gather(shard if sent is None else shard.astype(sent), AXIS, axis=axis, tiled=True)
    return whole if returned is None else whole.astype(returned)


def _gather_forward(shard, axis, sent, returned):
    # An empty slice carries the dtype of the shard to the backward pass.
    return gather_parameter(shard, axis, sent, returned), shard[:0]


def _gather_backward(axis, sent, returned, like, cotangent):
    return (scatter_sum(cotangent.astype(like.dtype), axis),)


gather_parameter.defvjp(_gather_forward, _gather_backward)


def scatter_sum(whole: jax.Array, axis: int) -> jax.Array:
    """Sums an array over all devices and returns this device's shard of the sum."""
    return jax.lax.psum_scatter(whole, AXIS, scatter_dimension=axis, tiled=True)


def own_shard(whole: jax.Array, axis: int, num_devices: int) -> jax.Array:
    """Returns this device's shard of an array that all devices hold."""
    size = whole.shape[axis] // num_devices
    return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index(AXIS) * size, size, axis)


def gather_all(tree: PyTree, layout: PyTree) -> PyTree:
    """Gathers every sharded leaf of a tree."""

    def whole(leaf: jax.Array, of_leaf: LeafLayout) -> jax.Array:
        return gather_parameter(leaf, of_leaf.axis) if of_leaf.kind == "sharded" else leaf

    return jax.tree.map(whole, tree, layout)


def on_whole_leaves(
    inner: optax.GradientTransformation, needs_whole: Callable[[str, Any], bool], layout: PyTree, num_devices: int
) -> optax.GradientTransformation:
    """Adapts a transformation that must see some parameters whole to parameters in shards.

    The gradients of these parameters, and what the transformation keeps in their shape, are gathered for the update;
    each device then takes its shard of the results. `init` takes whole parameters.

    Args:
        inner: Optax transformation.
        needs_whole: Whether it must see a parameter whole, by name and leaf.
        layout: Layout of the parameters.
        num_devices: Number of shards.
    """

    def update(updates: PyTree, state: PyTree, params: PyTree = None, **extra):
        def kept(path, leaf, of_leaf: LeafLayout) -> LeafLayout:
            return of_leaf if needs_whole(leaf_name(path), leaf) else REPLICATED

        gathered = jax.tree.map_with_path(kept, updates, layout)
        state_layout = layout_like(state, updates, gathered)
        params = None if params is None else gather_all(params, gathered)
        changes, new_state = inner.update(
            gather_all(updates, gathered), gather_all(state, state_layout), params, **extra
        )
        return own_shards(changes, gathered, num_devices), own_shards(new_state, state_layout, num_devices)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def own_shards(tree: PyTree, layout: PyTree, num_devices: int) -> PyTree:
    """Returns this device's shards of a tree that all devices hold whole; the inverse of `gather_all`."""
    return jax.tree.map(
        lambda leaf, of_leaf: own_shard(leaf, of_leaf.axis, num_devices) if of_leaf.kind == "sharded" else leaf,
        tree,
        layout,
    )


@dataclasses.dataclass(frozen=True)
class ParameterGather:
    """Gathers the sharded parameters of a module where the model uses them.

    Attributes:
        axes: Axis of every sharded parameter by path, of one layer; see `sharded_axes`.
        dtype: Dtype in which parameters are sent: the compute dtype.
    """

    axes: tuple[tuple[str, int], ...]
    dtype: str

    def __call__(self, params: PyTree, prefix: str = "") -> PyTree:
        """Returns the parameters of a module, whole.

        Args:
            params: Parameters of the module, of one layer.
            prefix: Path of the module with `*` in place of the layer, e.g. `encoder/*`; empty: the model,
                whose layers gather their own parameters and stay as they are.
        """
        axes = dict(self.axes)

        def whole(path, leaf: jax.Array) -> jax.Array:
            name = any_layer("/".join(filter(None, [prefix, leaf_name(path)])))
            is_left = not prefix and "*" in name.split("/")
            if is_left or name not in axes:
                return leaf
            # A layer uses its kernels in the compute dtype, which is also what the backward pass gathers again. The
            # gradient of an embedding is a sum over tokens, which needs its own dtype.
            return gather_parameter(leaf, axes[name], self.dtype, None if prefix else leaf.dtype.name)

        return jax.tree.map_with_path(whole, params)


def parameter_gather(layout: PyTree, dtype: str) -> ParameterGather | None:
    """Returns the gathering of parameters with this layout; None if all are replicated."""
    axes = sharded_axes(layout)
    return ParameterGather(tuple(sorted(axes.items())), dtype) if axes else None
