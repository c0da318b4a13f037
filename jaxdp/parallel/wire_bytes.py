"""Bytes that a device sends in a collective, by the ring algorithms, in which every device sends equally much."""

import math

import jax

from jaxdp.typing import PyTree


def all_reduce_bytes(size: float, num_devices: int) -> float:
    """Returns the bytes that each device sends to sum or average `size` bytes: a reduce-scatter and an all-gather."""
    return 2 * gather_bytes(size, num_devices)


def gather_bytes(size: float, num_devices: int) -> float:
    """Returns the bytes that each device sends in an all-gather, a reduce-scatter or an all-to-all.

    Args:
        size: Bytes of the whole array: that which all devices hold after an all-gather, or that one device holds
            before a reduce-scatter or an all-to-all.
        num_devices: Number of devices.
    """
    return size * (num_devices - 1) / num_devices


def num_bytes(tree: PyTree, itemsize: int = 4) -> int:
    """Returns the bytes of all leaves, arrays or shapes, with `itemsize` bytes a value."""
    return itemsize * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
