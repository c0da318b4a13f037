"""Which rule a parameter falls under, by its path and the rank of one layer's share.

Scanned stacks of layers have an axis of layers that unrolled ones lack; every
rule here gives both the same answer.
"""

import re
from collections.abc import Callable

import jax

from jaxdp.trees import SCANNED_LAYERS, is_scanned, leaf_name, per_layer_rank
from jaxdp.typing import PyTree

_UNROLLED_LAYER = re.compile(r"layer_\d+")


def decay_mask(params: PyTree) -> PyTree:
    """True for parameters that decay: all of rank 2 or more, embeddings included.

    Scales of norms and biases never decay. The rule is nanoGPT's
    (`configure_optimizers`), on the rank that the parameter has in one layer.
    """
    return jax.tree.map_with_path(
        lambda path, leaf: per_layer_rank(leaf_name(path), leaf) >= 2, params
    )


def is_layer_matrix(name: str, leaf) -> bool:
    """Whether the leaf is a matrix inside a layer: no embedding, output layer, norm or bias."""
    in_layer = any(
        part == SCANNED_LAYERS or _UNROLLED_LAYER.fullmatch(part) for part in name.split("/")
    )
    return in_layer and per_layer_rank(name, leaf) == 2


def per_layer(name: str, function: Callable) -> Callable:
    """`function` of one layer's arrays, mapped over the axis of layers if the leaf has one."""
    return jax.vmap(function) if is_scanned(name) else function
