"""Where a token stands: sinusoidal tables, rotary embeddings, relative buckets."""

import jax
import jax.numpy as jnp

NUM_BUCKETS = 32  # of distances between two tokens
MAX_DISTANCE = 128  # tokens; from here on all distances share a bucket


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


def relative_buckets(
    query_positions: jax.Array, key_positions: jax.Array, *, causal: bool
) -> jax.Array:
    """Which of NUM_BUCKETS buckets the distance from each query to each key falls into.

    One bucket for each small distance, then wider ones, logarithmically up to
    MAX_DISTANCE. Without causality half of the buckets are for keys after the query.

    Source: Raffel et al. 2020 (T5), section 2.1, and its released code.

    Args:
        query_positions: `[batch or 1, query_length] int32`.
        key_positions: `[batch or 1, key_length] int32`.
        causal: Keys after the query are hidden, and need no buckets.

    Returns:
        `[batch or 1, query_length, key_length] int32`.
    """
    before = query_positions[:, :, None] - key_positions[:, None, :]
    if causal:
        side, num_buckets, distance = 0, NUM_BUCKETS, jnp.maximum(before, 0)
    else:
        num_buckets = NUM_BUCKETS // 2
        side, distance = jnp.where(before < 0, num_buckets, 0), jnp.abs(before)
    table = jnp.asarray(_distance_buckets(num_buckets), jnp.int32)
    return side + jnp.take(table, jnp.minimum(distance, MAX_DISTANCE), axis=0)


def _distance_buckets(num_buckets: int) -> list[int]:
    """The bucket of each distance from 0 to MAX_DISTANCE, in integers: no logarithm to round."""
    exact = num_buckets // 2
    wide = num_buckets - exact
    table = list(range(exact))
    for distance in range(exact, MAX_DISTANCE + 1):
        # The greatest step with exact * (MAX_DISTANCE / exact) ** (step / wide) <= distance.
        step = max(
            step for step in range(wide)
            if MAX_DISTANCE**step * exact**wide <= distance**wide * exact**step
        )
        table.append(exact + step)
    return table


def relative_bias(table: jax.Array, buckets: jax.Array) -> jax.Array:
    """What each head adds to its scores.

    Args:
        table: `[NUM_BUCKETS, num_heads] float32`.
        buckets: `[batch or 1, query_length, key_length] int32`.

    Returns:
        `[batch or 1, num_heads, query_length, key_length] float32`.
    """
    return jax.lax.optimization_barrier(jnp.moveaxis(jnp.take(table, buckets, axis=0), -1, 1))
