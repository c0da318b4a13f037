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

    def __call__(self, gradients: PyTree, num_devices: int) -> PyTree:
        """Mean of each leaf over the devices of `AXIS`; for use inside an SPMD function."""
        if num_devices == 1:
            return gradients
        leaves, structure = jax.tree.flatten(gradients)
        means: list = []
        for bucket in split_into_buckets([leaf.size for leaf in leaves], self._bucket_elements()):
            means += _pmean_packed([leaves[index] for index in bucket], jnp.dtype(self.wire_dtype))
        return jax.tree.unflatten(structure, means)

    def _bucket_elements(self) -> float:
        if self.bucket_bytes is None:
            return math.inf
        return self.bucket_bytes / jnp.dtype(self.wire_dtype).itemsize


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


def _pmean_packed(leaves: list[jax.Array], wire_dtype) -> list[jax.Array]:
    """One all-reduce for all of `leaves`."""
    buffer = jnp.concatenate([leaf.astype(wire_dtype).reshape(-1) for leaf in leaves])
    buffer = jax.lax.pmean(buffer, AXIS)
    ends = [0]
    for leaf in leaves:
        ends.append(ends[-1] + leaf.size)
    return [
        buffer[start:end].reshape(leaf.shape).astype(leaf.dtype)
        for leaf, start, end in zip(leaves, ends[:-1], ends[1:], strict=True)
    ]
