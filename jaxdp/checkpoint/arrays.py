"""Arrays of a checkpoint: reads leaves in bounded groups, from one item or from the pieces of several processes."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxdp.checkpoint.manifest import MANIFEST, STATE, Manifest
from jaxdp.checkpoint.names import shards_file
from jaxdp.checkpoint.orbax_item import OrbaxItem
from jaxdp.checksum import leaf_checksums
from jaxdp.errors import DamageFound
from jaxdp.parallel.host_blocks import Range, shard_axes
from jaxdp.safetensors_file import Entry, read_array, read_header
from jaxdp.typing import PyTree

HeaderOf = Callable[[Path], Mapping[str, Entry]]
"""Function from a safetensors file to its header, which it reads once."""

GROUP_BYTES = 2**26
"""Bytes of arrays that are handled together: small ones share the fixed cost of a call, and a large one is alone."""


def compile_checksums(abstract: PyTree, layout: PyTree) -> Callable[[PyTree], list[jax.Array]]:
    """Compiles the checksums of the true arrays of a tree, one program for each group of leaves.

    XLA:CPU keeps temporaries of the size of all leaves of a program.

    Args:
        abstract: Shapes, dtypes and shardings as the devices store the leaves.
        layout: Layout of the leaves.

    Returns:
        Function tree -> uint32 arrays that have one checksum a leaf when joined, equal on all devices. It does not wait.
    """
    specs, axes = jax.tree.leaves(abstract), shard_axes(layout)
    replicated = NamedSharding(specs[0].sharding.mesh, PartitionSpec())
    groups, programs = _groups([math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in specs]), []
    for group in groups:
        of_group = functools.partial(leaf_checksums, axes=[axes[index] for index in group])
        program = jax.jit(of_group, out_shardings=replicated)
        programs.append(program.lower([specs[index] for index in group]).compile())

    def checksums(tree: PyTree) -> list[jax.Array]:
        leaves = jax.tree.leaves(tree)
        return [program([leaves[index] for index in group]) for program, group in zip(programs, groups, strict=True)]

    return checksums


def read_leaves(
    checkpoint: Path, manifest: Manifest, needed: Mapping[str, Range | None]
) -> Iterator[tuple[str, np.ndarray, Range | None]]:
    """Reads leaves of a checkpoint, a group at a time, so that host memory holds one group.

    Args:
        checkpoint: Directory of the checkpoint.
        manifest: Its manifest.
        needed: Path of each leaf -> range of it that is needed; None: all.

    Yields:
        (path, array, range of the leaf that the array is). The range covers the needed one; None: the whole leaf.

    Raises:
        DamageFound: An item does not hold a leaf, or the pieces of a leaf do not cover it.
    """
    pieces, header_of = manifest.pieces or {}, functools.cache(read_header)
    described = {leaf["path"]: leaf for leaf in manifest.leaves}
    names = list(needed)
    # A checkpoint of parameters only has no such item.
    state = None if needed.keys() <= pieces.keys() else OrbaxItem(checkpoint / STATE)
    for indices in _groups([_num_bytes(described[name]) for name in names]):
        group = [names[index] for index in indices]
        whole = [name for name in group if name not in pieces]
        arrays = state.read(set(whole)) if state is not None and whole else {}
        for name in group:
            if name in pieces:
                yield name, *_read_pieces(checkpoint, described[name], pieces[name], needed[name], header_of)
            else:
                yield name, arrays.pop(name), None


def _groups(sizes: Sequence[int]) -> list[list[int]]:
    """Divides leaves of these sizes into groups of at most `GROUP_BYTES`, or of one leaf; returns their indices."""
    groups, num_bytes = [], GROUP_BYTES
    for index, size in enumerate(sizes):
        if num_bytes + size > GROUP_BYTES:
            groups.append([])
            num_bytes = 0
        groups[-1].append(index)
        num_bytes += size
    return groups


def _num_bytes(leaf: Mapping[str, Any]) -> int:
    return math.prod(leaf["shape"]) * np.dtype(leaf["dtype"]).itemsize


def _read_pieces(
    checkpoint: Path, leaf: Mapping[str, Any], entry: Mapping[str, Any], needed: Range | None, header_of: HeaderOf
) -> tuple[np.ndarray, Range | None]:
    """Reads a leaf that several processes saved, or the needed range if it is along the same axis.

    Returns:
        The array, and the range of the leaf that it is; None: all.
    """
    axis = entry["axis"]
    size = leaf["shape"][axis] if leaf["shape"] else 1
    pieces = sorted((start, stop, item) for item, (start, stop) in entry["ranges"].items())
    if [0, *(stop for _, stop, _ in pieces)] != [*(start for start, _, _ in pieces), size]:
        raise DamageFound(f"the pieces of {leaf['path']} in {checkpoint} do not cover its {size} entries.")
    held = needed if needed is not None and needed.axis == axis else None
    first, last = (held.start, held.stop) if held else (0, size)
    parts = []
    for start, stop, item in pieces:
        if start < last and stop > first:
            part = slice(max(first - start, 0), min(last, stop) - start)
            path = shards_file(checkpoint, item)
            parts.append(_read_part(path, header_of(path).get(leaf["path"]), axis, part))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis), held


def _read_part(path: Path, entry: Entry | None, axis: int, part: slice) -> np.ndarray:
    """Reads a range of an array in a file of shards."""
    if entry is None:
        raise DamageFound(f"{path} does not hold an array that {path.parent / MANIFEST} says it holds.")
    if axis == 0:
        return read_array(path, entry, part)
    whole = read_array(path, entry)
    return whole if part == slice(0, entry.shape[axis]) else whole[(slice(None),) * axis + (part,)]
