"""Parameter trees: leaf names, sizes, and the layer axis of scanned layers.

A scanned stack of layers stores one leaf for all layers under the key `layers`, with
the layer as axis 0; an unrolled stack stores `layer_0`, `layer_1`, ... Rules about a
parameter (weight decay, factoring, orthogonalisation) must not depend on this choice,
so they use the rank of one layer's parameter.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxdp.typing import PyTree

SCANNED_LAYERS = "layers"


def key_name(key) -> str:
    """Returns the name of one element of a tree path."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    raise TypeError(f"unknown kind of tree path element: {key!r}")


def leaf_name(path) -> str:
    """Returns a tree path as a string such as `layers/attention/query/kernel`."""
    return "/".join(key_name(key) for key in path)


def named_leaves(tree: PyTree) -> list[tuple[str, Any]]:
    """Returns every leaf with its name, in tree order."""
    return [(leaf_name(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def is_scanned(name: str) -> bool:
    """Returns whether the leaf of this name has a layer axis."""
    return SCANNED_LAYERS in name.split("/")


def unrolled_names(tree: PyTree) -> dict[str, list[str]]:
    """Returns, by name, the names of each leaf in the unrolled model: one per scanned layer."""
    names = {}
    for name, leaf in named_leaves(tree):
        names[name] = [name]
        if is_scanned(name):
            parts = name.split("/")
            index = parts.index(SCANNED_LAYERS)
            names[name] = [
                "/".join([*parts[:index], f"layer_{number}", *parts[index + 1 :]]) for number in range(leaf.shape[0])
            ]
    return names


def per_layer_rank(name: str, leaf) -> int:
    """Returns the rank of one layer's parameter, which excludes the layer axis of a scanned stack."""
    return len(leaf.shape) - is_scanned(name)


def num_elements(tree: PyTree) -> int:
    """Counts the elements of all leaves, which are arrays or `jax.ShapeDtypeStruct`s."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def tree_of(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns leaves by their names as a tree of nested dicts, the inverse of `named_leaves` for such trees."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *parents, last = name.split("/")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = leaf
    return tree
