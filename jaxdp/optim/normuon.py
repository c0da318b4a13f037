"""NorMuon's scaling of orthogonalised updates: every output of a matrix gets a step of about the same size."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdp.typing import PyTree


class OutputScaleState(NamedTuple):
    """State of `scale_by_output_rms`.

    Attributes:
        mean_squares: Moving average of the mean square of the update of each output, `[..., 1, outputs] float32`.
    """

    mean_squares: PyTree


def scale_by_output_rms(b2: float, eps: float, rms: float) -> optax.GradientTransformation:
    """Builds a transformation that divides a matrix's update by the root mean square of each output, over the steps.

    The result of a matrix is rescaled to one root mean square, which makes a bias correction unnecessary.

    Source: Li et al. 2025, NorMuon: Making Muon More Efficient and Scalable, algorithm 1.

    Args:
        b2: Decay of the mean squares.
        eps: Added to the root.
        rms: Root mean square of a resulting update.
    """

    def init(params: PyTree) -> OutputScaleState:
        return OutputScaleState(
            jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape[:-2], 1, leaf.shape[-1]), jnp.float32), params)
        )

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, OutputScaleState]:
        del params
        mean_squares = jax.tree.map(
            lambda update, mean: b2 * mean + (1 - b2) * jnp.square(update).mean(axis=-2, keepdims=True),
            updates,
            state.mean_squares,
        )

        def scaled(update: jax.Array, mean: jax.Array) -> jax.Array:
            update = update / (jnp.sqrt(mean) + eps)
            size = jnp.sqrt(jnp.square(update).mean(axis=(-2, -1), keepdims=True))
            return update * (rms / jnp.maximum(size, eps))

        return jax.tree.map(scaled, updates, mean_squares), OutputScaleState(mean_squares)

    return optax.GradientTransformation(init, update)
