"""Parameter classification by path and per-layer rank: weight decay, layer matrices.

Scanned layers have a layer axis that unrolled layers lack. Every rule here gives the
same result for both.
"""

import re

import jax
import optax

from jaxdp.trees import SCANNED_LAYERS, is_scanned, leaf_name, per_layer_rank
from jaxdp.typing import PyTree

_UNROLLED_LAYER = re.compile(r"layer_\d+")


def decay_mask(params: PyTree) -> PyTree:
    """Returns a tree that is True for parameters with weight decay: those of per-layer rank 2 or more.

    This includes embeddings, and excludes norm scales and biases. The rule is that of
    nanoGPT's `configure_optimizers`.
    """
    return jax.tree.map_with_path(lambda path, leaf: per_layer_rank(leaf_name(path), leaf) >= 2, params)


def is_layer_matrix(name: str, leaf) -> bool:
    """Returns whether the leaf is a matrix inside a layer, which excludes embeddings and the output layer."""
    in_layer = any(part == SCANNED_LAYERS or _UNROLLED_LAYER.fullmatch(part) for part in name.split("/"))
    return in_layer and per_layer_rank(name, leaf) == 2


def per_layer(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies a transformation separately to each layer of scanned layers.

    Args:
        transformation: Optax transformation that treats parameters separately, but whose
            result depends on their shape or on means over them.
    """
    mapped = optax.GradientTransformation(jax.vmap(transformation.init), jax.vmap(transformation.update))

    def group(path, leaf) -> str:
        # Encoder and decoder can have different numbers of layers, which one vmap cannot combine.
        return f"layers_{leaf.shape[0]}" if is_scanned(leaf_name(path)) else "single"

    def grouped(params: PyTree) -> optax.GradientTransformation:
        labels = jax.tree.map_with_path(group, params)
        transformations = {
            label: transformation if label == "single" else mapped for label in sorted(set(jax.tree.leaves(labels)))
        }
        return optax.partition(transformations, labels)

    return optax.GradientTransformation(
        lambda params: grouped(params).init(params),
        lambda updates, state, params=None: grouped(updates).update(updates, state, params),
    )
