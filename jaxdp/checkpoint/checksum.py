"""Checksums of arrays as they are on the device.

A file's hash says that the bytes on disk are those that were written; this one
says that the values restored are those that were trained.
"""

import jax
import jax.numpy as jnp

from jaxdp.typing import PyTree


def leaf_checksums(tree: PyTree) -> jax.Array:
    """One number for each leaf; traceable, a single pass over the memory.

    Each element, as an unsigned 32-bit word, is multiplied by an odd number of
    its position and all are added modulo 2**32. Odd factors are invertible
    there, so any change within a single element changes the sum.

    Returns:
        [num_leaves] uint32, in tree order.
    """
    return jnp.stack([_checksum(leaf) for leaf in jax.tree.leaves(tree)])


def _checksum(leaf: jax.Array) -> jax.Array:
    words = _as_words(leaf).reshape(-1)
    positions = jax.lax.iota(jnp.uint32, words.size)
    # An odd multiplier of high spread (Knuth's golden-ratio constant), kept odd by `| 1`.
    factors = (positions * jnp.uint32(2654435769)) | jnp.uint32(1)
    return jnp.sum(words * factors, dtype=jnp.uint32)


def _as_words(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
