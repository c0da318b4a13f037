"""Muon: momentum, orthogonalised, for the matrices of the layers.

Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural
networks; the scale is that of Liu et al. 2025, Muon is Scalable for LLM
Training, section 2.2, under which one learning rate and one weight decay serve
Muon and AdamW alike.
"""

import jax
import jax.numpy as jnp
import optax

from jaxdp.optim.rules import is_layer_matrix, per_layer
from jaxdp.trees import leaf_name
from jaxdp.typing import PyTree

NUM_ITERATIONS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # steepest at zero: singular values end in about 0.7 to 1.2
UPDATE_RMS = 0.2  # root mean square of an AdamW update, which Muon's is made to match


def orthogonalize(matrix: jax.Array) -> jax.Array:
    """The nearest semi-orthogonal matrix, roughly, by a Newton-Schulz iteration.

    Args:
        matrix: `[rows, columns]` float32.

    Returns:
        `[rows, columns]` float32 with the singular vectors of `matrix` and
        singular values near 1.
    """
    a, b, c = QUINTIC
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix  # the smaller of the two Gram matrices costs less
    x = x / (jnp.linalg.norm(x) + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if is_tall else x


def _direction(momentum: jax.Array) -> jax.Array:
    return UPDATE_RMS * max(momentum.shape) ** 0.5 * orthogonalize(momentum)


def _orthogonalize_each(updates: PyTree, _params: PyTree) -> PyTree:
    return jax.tree.map_with_path(
        lambda path, update: per_layer(leaf_name(path), _direction)(update), updates
    )


def _groups(params: PyTree) -> PyTree:
    return jax.tree.map_with_path(
        lambda path, leaf: "muon" if is_layer_matrix(leaf_name(path), leaf) else "adamw", params
    )


def scale_by_muon(momentum: float, b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Muon's direction for matrices of the layers, AdamW's for all other parameters.

    Args:
        momentum: decay of Muon's Nesterov momentum.
        b1, b2, eps: as in AdamW.
    """
    return optax.partition(
        {
            "muon": optax.chain(
                optax.trace(decay=momentum, nesterov=True),
                optax.stateless(_orthogonalize_each),
            ),
            "adamw": optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        },
        _groups,
    )
