"""Mean over the workers of local training of their differences, in float32, bfloat16, or 8 or 4 bits with error feedback."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdp.parallel.buckets import GradientSync
from jaxdp.parallel.quantise import QuantisedSum, Residuals
from jaxdp.parallel.wire_bytes import all_reduce_bytes, num_bytes
from jaxdp.parallel.workers import Workers
from jaxdp.typing import PyTree


@dataclasses.dataclass(frozen=True)
class WorkerMean:
    """Mean of a tree over all workers; for use inside the step of one device.

    A single worker sends nothing.

    Attributes:
        workers: Groups of devices; those of a group have equal trees.
        buckets: Buffers of a mean that is not quantised, and their dtype.
        bits: Bits of a quantised value, 8 or 4; None: not quantised.
    """

    workers: Workers
    buckets: GradientSync = dataclasses.field(default_factory=GradientSync)
    bits: int | None = None

    @property
    def dtype(self) -> str:
        """Name of the dtype of a value on the wire."""
        return f"int{self.bits}" if self.bits else self.buckets.wire_dtype

    @property
    def _quantised(self) -> QuantisedSum | None:
        if self.bits is None or self.workers.num_workers == 1:
            return None
        return QuantisedSum(self.bits, self.workers.num_devices)

    def residuals(self, tree: PyTree) -> Residuals | None:
        """Returns the residuals of one device before the first mean; None if nothing is quantised.

        Args:
            tree: Arrays or shapes of the trees to average.
        """
        return self._quantised.residuals(tree) if self._quantised else None

    def __call__(self, tree: PyTree, residuals: Residuals | None) -> tuple[PyTree, Residuals | None]:
        """Returns the mean, equal on all devices, and the new residuals of this device.

        Args:
            tree: This device's arrays.
            residuals: Residuals of the previous call, or of `residuals`.
        """
        num_devices = self.workers.num_devices
        if self.workers.num_workers == 1:
            return tree, None
        if self._quantised:
            assert residuals is not None, "a quantised mean needs residuals"
            return self._quantised(jax.tree.map(lambda leaf: leaf / num_devices, tree), residuals)
        buffers = self.buckets.reduce(tree, num_devices)
        return self.buckets.unpack(buffers, tree, num_devices), None

    def bytes_on_wire(self, tree: PyTree) -> float:
        """Returns the bytes that a device sends in one mean, scales included.

        Args:
            tree: Arrays or shapes of the trees to average.
        """
        if self.workers.num_workers == 1:
            return 0.0
        if self._quantised:
            return self._quantised.bytes_on_wire(tree)
        size = num_bytes(tree, jnp.dtype(self.buckets.wire_dtype).itemsize)
        return all_reduce_bytes(size, self.workers.num_devices)
