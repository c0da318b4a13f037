"""Which rule a parameter falls under, by its path and the rank of one layer's share.

Scanned stacks of layers have an axis of layers that unrolled ones lack; every
rule here gives both the same answer.
"""

import re

import jax
import optax

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


def per_layer(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """The transformation, with each layer of a scanned stack as a parameter of its own.

    Args:
        transformation: one that treats every parameter alone, but looks at its
            shape or takes means over it, which an axis of layers would spoil.
    """
    mapped = optax.GradientTransformation(
        jax.vmap(transformation.init), jax.vmap(transformation.update)
    )

    def group(path, leaf) -> str:
        # Stacks of unequal depth (encoder, decoder) cannot share one vmap.
        return f"layers_{leaf.shape[0]}" if is_scanned(leaf_name(path)) else "single"

    def grouped(params: PyTree) -> optax.GradientTransformation:
        labels = jax.tree.map_with_path(group, params)
        transformations = {
            label: transformation if label == "single" else mapped
            for label in sorted(set(jax.tree.leaves(labels)))
        }
        return optax.partition(transformations, labels)

    return optax.GradientTransformation(
        lambda params: grouped(params).init(params),
        lambda updates, state, params: grouped(updates).update(updates, state, params),
    )
