"""Norms of parameters, gradients and updates: sums of squares of each parameter, one a layer where layers are scanned."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.trees import SCANNED_LAYERS, is_scanned, named_leaves
from jaxdp.typing import PyTree

KINDS = ("params", "grads", "updates")
"""Rows of the sums: parameters before the update, mean gradients after clipping, and changes of the parameters."""


def sums_of_squares(params: PyTree, gradients: PyTree, updates: PyTree) -> jax.Array:
    """Computes the sums of squares `[len(KINDS), num_entries] float32`; of shards, those of the shards.

    The entries are those of `entry_names`.
    """
    return jnp.stack([_of_tree(tree) for tree in (params, gradients, updates)])


def _of_tree(tree: PyTree) -> jax.Array:
    return jnp.concatenate([_of_leaf(name, leaf) for name, leaf in named_leaves(tree)])


def _of_leaf(name: str, leaf: jax.Array) -> jax.Array:
    axes = tuple(range(int(is_scanned(name)), leaf.ndim))
    return jnp.sum(jnp.square(leaf.astype(jnp.float32)), axis=axes).reshape(-1)


def no_sums(params: PyTree) -> jax.Array:
    """Returns the sums of a step without an update: zeros."""
    return jnp.zeros((len(KINDS), len(entry_names(params))), jnp.float32)


def entry_names(shapes: PyTree) -> list[str]:
    """Returns the path of each entry, with unrolled layers: `layer_3/mlp/up/kernel`.

    Args:
        shapes: Parameters, or their shapes; scanned leaves have their layers on axis 0.
    """
    return [name for path, leaf in named_leaves(shapes) for name in _names(path, leaf)]


def _names(path: str, leaf) -> list[str]:
    if not is_scanned(path):
        return [path]
    elements = path.split("/")
    return [
        "/".join(f"layer_{layer}" if element == SCANNED_LAYERS else element for element in elements)
        for layer in range(leaf.shape[0])
    ]


def entries_of(shapes: PyTree, flags: list[bool]) -> np.ndarray:
    """Returns one flag for each entry from one for each parameter, in tree order: `[num_entries] bool`."""
    named = named_leaves(shapes)
    return np.concatenate([np.full(len(_names(*leaf)), flag) for leaf, flag in zip(named, flags, strict=True)])
