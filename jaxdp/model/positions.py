"""Position encodings: sinusoidal embeddings and relative position biases."""

import jax
import jax.numpy as jnp


def frequencies(num_pairs: int, base: float) -> jax.Array:
    """Computes frequencies `[num_pairs] float32` whose wavelengths range from 2 pi to base * 2 pi tokens."""
    return base ** (-jnp.arange(num_pairs, dtype=jnp.float32) / num_pairs)


def position_angles(positions: jax.Array, frequencies: jax.Array) -> jax.Array:
    """Computes position times frequency, `[batch or 1, length, num_pairs] float32`."""
    return positions.astype(jnp.float32)[:, :, None] * frequencies[None, None, :]


def sinusoidal_embedding(positions: jax.Array, embed_dim: int) -> jax.Array:
    """Computes sinusoidal position embeddings: sines in the first half of the features, cosines in the second.

    Source: Vaswani et al. 2017, section 3.5. Differs: the paper interleaves sines and
    cosines; halves are equivalent up to a permutation of features.

    Args:
        positions: Positions, `[batch or 1, length] int32`.
        embed_dim: Number of features, even.

    Returns:
        Position embeddings, `[batch or 1, length, embed_dim] float32`.
    """
    angles = position_angles(positions, frequencies(embed_dim // 2, 10000.0))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def relative_buckets(
    query_positions: jax.Array, key_positions: jax.Array, *, causal: bool, num_buckets: int, max_distance: int
) -> jax.Array:
    """Assigns the relative distance from each query to each key to one of `num_buckets` buckets.

    Each small distance has its own bucket; larger distances share buckets that widen
    logarithmically up to `max_distance`. Without causality, half of the buckets are for
    keys after the query.

    Source: Raffel et al. 2020 (T5), section 2.1, and its released code.

    Args:
        query_positions: Positions of the queries, `[batch or 1, query_length] int32`.
        key_positions: Positions of the keys, `[batch or 1, key_length] int32`.
        causal: Whether keys after the query are masked and need no buckets.
        num_buckets: Number of buckets, a multiple of 4.
        max_distance: Distance in tokens from which all distances share the last bucket.

    Returns:
        Bucket indices, `[batch or 1, query_length, key_length] int32`.
    """
    before = query_positions[:, :, None] - key_positions[:, None, :]
    if causal:
        side, distance = 0, jnp.maximum(before, 0)
    else:
        num_buckets = num_buckets // 2
        side, distance = jnp.where(before < 0, num_buckets, 0), jnp.abs(before)
    table = jnp.asarray(_distance_buckets(num_buckets, max_distance), jnp.int32)
    return side + jnp.take(table, jnp.minimum(distance, max_distance), axis=0)


def _distance_buckets(num_buckets: int, max_distance: int) -> list[int]:
    """Returns the bucket of each distance from 0 to `max_distance`, in integer arithmetic to avoid rounding of logarithms."""
    exact = num_buckets // 2
    wide = num_buckets - exact
    table = list(range(exact))
    for distance in range(exact, max_distance + 1):
        # Largest step with exact * (max_distance / exact) ** (step / wide) <= distance.
        step = max(step for step in range(wide) if max_distance**step * exact**wide <= distance**wide * exact**step)
        table.append(exact + step)
    return table


def relative_bias(table: jax.Array, buckets: jax.Array) -> jax.Array:
    """Looks up the bias that each head adds to its attention scores.

    Args:
        table: Learned biases, `[num_buckets, num_heads] float32`.
        buckets: Result of `relative_buckets`, `[batch or 1, query_length, key_length] int32`.

    Returns:
        Biases, `[batch or 1, num_heads, query_length, key_length] float32`.
    """
    return jax.lax.optimization_barrier(jnp.moveaxis(jnp.take(table, buckets, axis=0), -1, 1))
