"""Where a token stands: sinusoidal tables and rotary embeddings."""

import jax
import jax.numpy as jnp


def _angles(positions: jax.Array, num_pairs: int, base: float) -> jax.Array:
    """Position times frequency, `[batch or 1, length, num_pairs]` float32; wavelengths 2 pi to base * 2 pi."""
    frequencies = base ** (-jnp.arange(num_pairs, dtype=jnp.float32) / num_pairs)
    return positions.astype(jnp.float32)[:, :, None] * frequencies[None, None, :]


def sinusoidal_embedding(positions: jax.Array, embed_dim: int) -> jax.Array:
    """Sines in the first half of the features, cosines in the second.

    Source: Vaswani et al. 2017, section 3.5. Departs: the paper interleaves
    sines and cosines; halves are the same up to a permutation of features.

    Args:
        positions: `[batch or 1, length] int32`.
        embed_dim: Even.

    Returns:
        `[batch or 1, length, embed_dim] float32`.
    """
    angles = _angles(positions, embed_dim // 2, 10000.0)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def rotary_tables(positions: jax.Array, head_dim: int, base: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines that `rotate` needs, shared by all layers and heads.

    Args:
        positions: `[batch or 1, length] int32`.
        head_dim: Even.
        base: Wavelength base.

    Returns:
        Cosines, and sines with the first half negated, `[batch or 1, length, 1, head_dim] float32`.
    """
    angles = _angles(positions, head_dim // 2, base)[:, :, None, :]
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([cosine, cosine], axis=-1), jnp.concatenate([-sine, sine], axis=-1)


def rotate(heads: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn each pair of features by its angle: rotary position embedding.

    Source: Su et al. 2021 (RoFormer), section 3.4. Departs: pair i is features
    i and i + head_dim / 2, as in Llama checkpoints on Hugging Face; the paper
    pairs neighbours.

    Args:
        heads: Queries or keys, `[batch, length, heads, head_dim]`.
        tables: From `rotary_tables`.

    Returns:
        The same shape and dtype; computed in float32.
    """
    cosine, sine = tables
    values = heads.astype(jnp.float32)
    swapped = jnp.roll(values, heads.shape[-1] // 2, axis=-1)
    return (values * cosine + swapped * sine).astype(heads.dtype)
