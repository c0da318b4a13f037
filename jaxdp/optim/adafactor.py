"""Adafactor: second moments of a matrix kept as one row and one column.

Source: Shazeer and Stern 2018, Adafactor, algorithms 4 and 5, without first
moment; the names of its constants are in brackets below.
Departs: factors only where both axes have at least 128 entries, as the authors'
own code does; a scanned stack is treated layer by layer.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdp.optim.rules import per_layer
from jaxdp.trees import leaf_name
from jaxdp.typing import PyTree

DECAY_EXPONENT = 0.8  # second moment decays by 1 - t^-0.8 at update t
SQUARE_FLOOR = 1e-30  # [epsilon 1] added to squared gradients
SCALE_FLOOR = 1e-3  # [epsilon 2] least root mean square of a parameter, so that zeros can move
CLIP_RMS = 1.0  # [d] largest root mean square of an update
MIN_FACTORED_SIZE = 128  # entries of the smaller axis


class FactoredMoment(NamedTuple):
    """Means of the squared gradient of a parameter over one of its two largest axes each."""

    rows: jax.Array  # the parameter's shape without its largest axis, float32
    columns: jax.Array  # the parameter's shape without its second largest axis, float32


class AdafactorState(NamedTuple):
    """State of `scale_by_adafactor`."""

    count: jax.Array  # [] int32, applied updates
    moments: PyTree  # as the parameters; a FactoredMoment, or an array where that does not pay


def _factored_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(second largest, largest) axis, or None where the parameter is not factored."""
    if len(shape) < 2:
        return None
    by_size = np.argsort(shape, kind="stable")
    row_axis, column_axis = int(by_size[-2]), int(by_size[-1])
    return (row_axis, column_axis) if shape[row_axis] >= MIN_FACTORED_SIZE else None


def _init_moment(param: jax.Array) -> FactoredMoment | jax.Array:
    axes = _factored_axes(param.shape)
    if axes is None:
        return jnp.zeros_like(param)
    row_axis, column_axis = axes
    zeros = jnp.zeros_like(param)
    return FactoredMoment(rows=zeros.sum(column_axis), columns=zeros.sum(row_axis))


def _root_mean_square(array: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(array)))


def _inverse_root(moment: FactoredMoment | jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """1 / sqrt of the second moment; rank one if factored: rows * columns / mean(rows)."""
    if not isinstance(moment, FactoredMoment):
        return jax.lax.rsqrt(moment)
    row_axis, column_axis = _factored_axes(shape)
    rows = jnp.expand_dims(moment.rows, column_axis)
    columns = jnp.expand_dims(moment.columns, row_axis)
    return jax.lax.rsqrt(rows / rows.mean(row_axis, keepdims=True)) * jax.lax.rsqrt(columns)


def _update_one(grad, moment, param, decay):
    """The direction for one layer's parameter, and its new second moment."""
    square = jnp.square(grad) + SQUARE_FLOOR
    axes = _factored_axes(grad.shape)
    if axes is None:
        observed = square
    else:
        row_axis, column_axis = axes
        observed = FactoredMoment(rows=square.mean(column_axis), columns=square.mean(row_axis))
    moment = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, moment, observed)
    update = grad * _inverse_root(moment, grad.shape)
    update = update / jnp.maximum(1.0, _root_mean_square(update) / CLIP_RMS)
    return update * jnp.maximum(_root_mean_square(param), SCALE_FLOOR), moment


def scale_by_adafactor() -> optax.GradientTransformation:
    """Adafactor's direction: relative to the root mean square of each parameter."""

    def init(params: PyTree) -> AdafactorState:
        moments = jax.tree.map_with_path(
            lambda path, param: per_layer(leaf_name(path), _init_moment)(param), params
        )
        return AdafactorState(count=jnp.zeros([], jnp.int32), moments=moments)

    def update(grads: PyTree, state: AdafactorState, params: PyTree):
        count = optax.safe_increment(state.count)
        decay = 1.0 - count.astype(jnp.float32) ** -DECAY_EXPONENT

        def update_leaf(path, grad, moment, param):
            one = per_layer(leaf_name(path), lambda *arrays: _update_one(*arrays, decay))
            return one(grad, moment, param)

        pairs = jax.tree.map_with_path(update_leaf, grads, state.moments, params)
        updates, moments = (
            jax.tree.map(lambda _, pair, side=side: pair[side], grads, pairs) for side in (0, 1)
        )
        return updates, AdafactorState(count=count, moments=moments)

    return optax.GradientTransformation(init, update)
