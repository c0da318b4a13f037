"""Checksums of arrays as they are on the device.

A file's hash says that the bytes on disk are those that were written; this one
says that the values restored are those that were trained, and that all devices
hold the same.
"""

import jax
import jax.numpy as jnp

from jaxdp.typing import PyTree


def leaf_checksums(tree: PyTree) -> jax.Array:
    """One number for each leaf; traceable, a single pass over the memory.

    Each element, as an unsigned 32-bit word, is combined with its position and
    mixed by a bijection, and all are added modulo 2**32. So any change within
    one element changes the sum for certain, and any other, such as a swap, but
    for one chance in 2**32.

    Returns:
        [num_leaves] uint32, in tree order.
    """
    return jnp.stack([_checksum(leaf) for leaf in jax.tree.leaves(tree)])


def _checksum(leaf: jax.Array) -> jax.Array:
    words = _as_words(leaf).reshape(-1)
    # An odd multiplier of high spread (Knuth's golden-ratio constant) tells positions apart.
    positions = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(2654435769)
    return jnp.sum(_mixed(words ^ positions), dtype=jnp.uint32)


def _mixed(words: jax.Array) -> jax.Array:
    """A bijection of 32-bit words in which each input bit reaches each output bit.

    Without it a swap of two numbers that differ in the sign alone would go unseen.

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
