"""Gradient synchronisation: few large buffers instead of one message per parameter.

Measured with 150 leaves: 2 processes over gloo take 178 ms leaf by leaf and
13 ms as one vector; 4 devices of one process 17 ms and 3.4 ms.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdp.errors import UserError
from jaxdp.parallel.devices import AXIS
from jaxdp.run_config import ParallelConfig
from jaxdp.typing import PyTree

WIRE_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class GradientSync:
    """How gradients become equal on all devices.

    Attributes:
        wire_dtype: what they travel as; the mean is taken in it.
        bucket_bytes: largest size of one buffer; None: a single buffer.
    """

    wire_dtype: str = "float32"
    bucket_bytes: int | None = None

    def __post_init__(self):
        if self.wire_dtype not in WIRE_DTYPES:
            raise UserError(
                f"parallel.wire_dtype={self.wire_dtype!r} is unknown; choose {' or '.join(WIRE_DTYPES)}."
            )

    def reduce(self, gradients: PyTree, num_devices: int) -> list[jax.Array]:
        """Mean over the devices of `AXIS`, packed; for use inside an SPMD function.

        Returns:
            Flat float32 buffers that hold every gradient once; `unpack` gives
            the tree back. One device communicates nothing and packs nothing.
        """
        leaves = jax.tree.leaves(gradients)
        if num_devices == 1:
            return [leaf.reshape(-1) for leaf in leaves]
        buffers = []
        for bucket in self._buckets(leaves, num_devices):
            packed = jnp.concatenate(
                [leaves[index].astype(self.wire_dtype).reshape(-1) for index in bucket]
            )
            buffers.append(jax.lax.pmean(packed, AXIS).astype(jnp.float32))
        return buffers

    def unpack(self, buffers: list[jax.Array], like: PyTree, num_devices: int) -> PyTree:
        """The tree in `buffers`, shaped and typed `like` the parameters.

        Apart from `reduce`, so that the slices can be taken where they are used
        and need no memory of their own.
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


def make_sync(parallel: ParallelConfig, platform: str) -> GradientSync:
    """Returns the gradient synchronisation of a configuration: one buffer on CPU, buckets elsewhere.

    Raises:
        UserError: `parallel.sync` is unknown.
    """
    if parallel.sync != "pmean":
        raise UserError(f"parallel.sync={parallel.sync!r} is unknown; choose pmean.")
    bucket_mb = parallel.bucket_mb
    if bucket_mb is None and platform != "cpu":
        bucket_mb = 32.0
    return GradientSync(parallel.wire_dtype, None if bucket_mb is None else int(bucket_mb * 2**20))


def split_into_buckets(sizes: Sequence[int], limit: float) -> list[list[int]]:
    """Consecutive leaves in buckets of at most `limit` elements; a larger leaf is alone in its own."""
    buckets: list[list[int]] = []
    room = -1.0
    for index, size in enumerate(sizes):
        if size > room:
            buckets.append([])
            room = limit
        buckets[-1].append(index)
        room -= size
    return buckets
