"""Parameter trees: names of leaves, sizes, and which leaves carry a layer axis.

A scanned stack of layers keeps one leaf for all layers, with the layer as axis
0, below the key `layers`; an unrolled stack keeps `layer_0`, `layer_1`, ...
Rules about a parameter (decay, factoring, orthogonalisation) must not depend on
that choice, so they ask for the rank that one layer's parameter has.
"""

import jax
import numpy as np

from jaxdp.typing import PyTree

SCANNED_LAYERS = "layers"


def key_name(key) -> str:
    """One step of a tree path, as a person would write it."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    raise TypeError(f"unknown kind of tree path element: {key!r}")


def leaf_name(path) -> str:
    """A tree path as `layers/attention/query/kernel`."""
    return "/".join(key_name(key) for key in path)


def named_leaves(tree: PyTree) -> list[tuple[str, object]]:
    """Every leaf with its name, in tree order."""
    return [(leaf_name(path), leaf) for path, leaf in jax.tree.leaves_with_path(tree)]


def is_scanned(name: str) -> bool:
    """Whether the leaf of this name carries a layer axis."""
    return SCANNED_LAYERS in name.split("/")


def per_layer_rank(name: str, leaf) -> int:
    """Rank of one layer's parameter: without the layer axis of a scanned stack."""
    return len(leaf.shape) - is_scanned(name)


def num_elements(tree: PyTree) -> int:
    """Total number of array elements; works on arrays and on their shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
