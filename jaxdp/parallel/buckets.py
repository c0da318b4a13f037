"""Gradient buffers of the all-reduce: few large buffers instead of one message per parameter.

Measured on CPU with 150 leaves: 2 processes over gloo take 178 ms leaf by leaf and
13 ms as one vector; 4 devices of one process take 17 ms and 3.4 ms.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdp.errors import UserError
from jaxdp.parallel.devices import AXIS
from jaxdp.typing import PyTree

WIRE_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class GradientSync:
    """All-reduce mean of gradients over all devices, in few large buffers.

    Attributes:
        wire_dtype: Dtype of the buffers and of the mean.
        bucket_bytes: Maximum size of a buffer in bytes; None: a single buffer.
        groups: Positions of the devices that average with each other; None: all do.
    """

    wire_dtype: str = "float32"
    bucket_bytes: int | None = None
    groups: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self):
        if self.wire_dtype not in WIRE_DTYPES:
            raise UserError(f"parallel.wire_dtype={self.wire_dtype!r} is unknown; choose {' or '.join(WIRE_DTYPES)}.")

    def reduce(self, gradients: PyTree, num_devices: int) -> list[jax.Array]:
        """Averages gradients over the devices of `AXIS`; for use inside an SPMD function.

        Args:
            gradients: Gradients of this device.
            num_devices: Number of devices that average with each other.

        Returns:
            Flat float32 buffers with every gradient once; `unpack` restores the tree.
            With one device nothing is communicated or packed.
        """
        leaves = jax.tree.leaves(gradients)
        if num_devices == 1:
            return [leaf.reshape(-1) for leaf in leaves]
        buffers = []
        for bucket in self._buckets(leaves, num_devices):
            packed = jnp.concatenate([leaves[index].astype(self.wire_dtype).reshape(-1) for index in bucket])
            buffers.append(jax.lax.pmean(packed, AXIS, axis_index_groups=self.groups).astype(jnp.float32))
        return buffers

    def unpack(self, buffers: list[jax.Array], like: PyTree, num_devices: int) -> PyTree:
        """Restores the tree from `buffers`, with shapes and dtypes of `like`.

        It is separate from `reduce`, so that XLA slices the buffers at the point of use
        and allocates no memory for the slices.
        """
        leaves, structure = jax.tree.flatten(like)
        unpacked = []
        for buffer, bucket in zip(buffers, self._buckets(leaves, num_devices), strict=True):
            end = 0
            for index in bucket:
                leaf, start, end = leaves[index], end, end + leaves[index].size
                unpacked.append(buffer[start:end].reshape(leaf.shape).astype(leaf.dtype))
        return jax.tree.unflatten(structure, unpacked)

    def _buckets(self, leaves: list[jax.Array], num_devices: int) -> list[list[int]]:
        sizes = [leaf.size for leaf in leaves]
        if num_devices == 1:
            return split_into_buckets(sizes, 0)
        if self.bucket_bytes is None:
            return split_into_buckets(sizes, math.inf)
        return split_into_buckets(sizes, self.bucket_bytes / jnp.dtype(self.wire_dtype).itemsize)


def split_into_buckets(sizes: Sequence[int], limit: float) -> list[list[int]]:
    """Assigns consecutive leaves to buckets of at most `limit` elements; a larger leaf has its own bucket."""
    buckets: list[list[int]] = []
    room = -1.0
    for index, size in enumerate(sizes):
        if size > room:
            buckets.append([])
            room = limit
        buckets[-1].append(index)
        room -= size
    return buckets
