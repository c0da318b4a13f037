"""Checksums of arrays, computed on the device.

A file hash proves that a file was read back as it was saved. These checksums prove
that the restored values are the trained ones, and that all devices hold equal values.
"""

import jax
import jax.numpy as jnp

from jaxdp.typing import PyTree


def leaf_checksums(tree: PyTree) -> jax.Array:
    """Computes one checksum per leaf in a single pass over the memory; can be traced by JAX.

    Each element, as an unsigned 32-bit word, is combined with its position, mixed by a
    bijection and added modulo 2**32. A change within one element always changes the sum;
    any other change, such as a swap, goes unnoticed with probability 2**-32.

    Returns:
        Checksums `[num_leaves] uint32`, in tree order.
    """
    return jnp.stack([_checksum(leaf) for leaf in jax.tree.leaves(tree)])


def _checksum(leaf: jax.Array) -> jax.Array:
    words = _as_words(leaf).reshape(-1)
    # An odd multiplier with well-spread bits (Knuth's golden-ratio constant) distinguishes positions.
    positions = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(2654435769)
    return jnp.sum(_mixed(words ^ positions), dtype=jnp.uint32)


def _mixed(words: jax.Array) -> jax.Array:
    """Applies a bijection of 32-bit words in which every input bit affects every output bit.

    Without it, swapping two numbers that differ only in their sign would not change the sum.

    Source: Wellons 2018, Prospecting for Hash Functions: lowbias32.
    """
    words = (words ^ (words >> 16)) * jnp.uint32(0x7FEB352D)
    words = (words ^ (words >> 15)) * jnp.uint32(0x846CA68B)
    return words ^ (words >> 16)


def _as_words(leaf: jax.Array) -> jax.Array:
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)
