"""Checksums of arrays, computed on the device or, of arrays in host memory, by NumPy.

A file hash proves that a file was read back as it was saved. These checksums prove
that the restored values are the trained ones, and that all devices hold equal values.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.typing import PyTree

_CHUNK = 2**20
"""Elements that NumPy handles at once, which stay in the cache of a core."""

_POSITION_FACTOR = 2654435769
"""Odd multiplier with well-spread bits (Knuth's golden-ratio constant), which distinguishes positions."""


def leaf_checksums(tree: PyTree, axes: Sequence[int | None] | None = None) -> jax.Array:
    """Computes one checksum per leaf in a single pass over the memory; can be traced by JAX.

    Each element, as an unsigned 32-bit word, is combined with its position, mixed by a
    bijection and added modulo 2**32. A change within one element always changes the sum;
    any other change, such as a swap, goes unnoticed with probability 2**-32.

    Args:
        tree: Arrays.
        axes: For each leaf the axis of its true shape `[..., n, ...]` if it is stored in shards
            `[num_shards, ..., n / num_shards, ...]`, else None; None: no leaf is. The checksum is that of the
            true array, and each device reads its own shard only.

    Returns:
        Checksums `[num_leaves] uint32`, in tree order.
    """
    leaves = jax.tree.leaves(tree)
    axes = [None] * len(leaves) if axes is None else axes
    return jnp.stack([_checksum(leaf, axis) for leaf, axis in zip(leaves, axes, strict=True)])


def array_checksum(array: np.ndarray) -> int:
    """Computes the checksum of `leaf_checksums` for an array in host memory, without a backend."""
    words = np.ascontiguousarray(array).reshape(-1).view(np.dtype(f"uint{8 * array.dtype.itemsize}"))
    total = 0
    for start in range(0, words.size, _CHUNK):
        chunk = words[start : start + _CHUNK].astype(np.uint32)
        positions = np.arange(start, start + chunk.size, dtype=np.uint64) * np.uint64(_POSITION_FACTOR)
        chunk ^= positions.astype(np.uint32)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            chunk ^= chunk >> np.uint32(shift)
            chunk *= np.uint32(factor)
        total += int(chunk.sum(dtype=np.uint64))
    return total % 2**32


def _checksum(leaf: jax.Array, axis: int | None) -> jax.Array:
    words = _as_words(leaf)
    if axis is None:
        words = words.reshape(-1)
        positions = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(_POSITION_FACTOR)
    else:
        positions = _shard_positions(words.shape, axis)
    return jnp.sum(_mixed(words ^ positions), dtype=jnp.uint32)


def _shard_positions(stored: tuple[int, ...], axis: int) -> jax.Array:
    """Returns the position of each element in the flat true array, times the factor, modulo 2**32.

    Without a reshape, which would gather the leaf on every device.
    """
    num_shards, *shape = stored
    whole = [size * num_shards if dimension == axis else size for dimension, size in enumerate(shape)]
    strides = [math.prod(whole[dimension + 1 :]) for dimension in range(len(whole))]
    strides = [strides[axis] * shape[axis], *strides]
    factors = [jnp.uint32(stride * _POSITION_FACTOR % 2**32) for stride in strides]
    return sum(
        (jax.lax.broadcasted_iota(jnp.uint32, stored, dimension) * factor for dimension, factor in enumerate(factors)),
        jnp.zeros(stored, jnp.uint32),
    )


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
