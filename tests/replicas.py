"""Replicated arrays of which one device's copy is not that of the others."""

import jax
import numpy as np

from jaxdp.trees import leaf_name


def flip_bit(leaf, device, *, element=0, bit=0):
    """The leaf with one bit of one device's copy flipped; it still looks replicated.

    Args:
        leaf: a replicated array.
        device: whose copy to change; nothing happens in a process that does not hold it.
        element: of the flattened array.
        bit: of that element, 0 being the lowest.
    """

    def copy_of(shard):
        copy = np.array(shard.data)
        if shard.device == device:
            words = copy.reshape(-1).view(f"u{copy.dtype.itemsize}")
            words[element] ^= words.dtype.type(1 << bit)
        return jax.device_put(copy, shard.device)

    copies = [copy_of(shard) for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, copies)


def flip_bit_of(tree, name, device, **where):
    """The tree with a bit flipped in the leaf of this name."""
    return jax.tree.map_with_path(
        lambda path, leaf: flip_bit(leaf, device, **where) if leaf_name(path) == name else leaf, tree
    )
