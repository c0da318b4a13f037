"""Block quantisation of float vectors to 8 or 4 bits, and a sum over devices that sends such blocks, with error feedback.

A block of `BLOCK` values shares one float32 scale; a value is a whole multiple of it, from -127 to 127 or from -7 to 7.
Two 4-bit values share a byte: XLA:CPU moves `int4` as `int8`, and sums of it wrap without an error.

The sum has two stages, as a ring all-reduce: each device sends every other its blocks of that device's share
(`all_to_all`), sums what it receives in float32, and sends the quantised sums to all (`all_gather`). What rounding
removes in either stage is added to the next vector of that stage, so no part of a vector is lost, only delayed.

Source: Seide et al. 2014, 1-bit SGD, section 3 (error feedback in both stages); Karimireddy et al. 2019, Error Feedback
Fixes SignSGD (convergence as without compression). Differs: blocks have a scale, as in Dettmers et al. 2022, 8-bit
Optimizers via Block-wise Quantization.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdp.parallel.devices import AXIS
from jaxdp.parallel.wire_bytes import gather_bytes
from jaxdp.typing import PyTree

BLOCK = 256
"""Number of values that share a scale."""

SCALE_BYTES = 4

BITS = {"int8": 8, "int4": 4}
"""Value of `parallel.wire_dtype` -> bits of a value."""


def encode(values: jax.Array, bits: int) -> jax.Array:
    """Quantises blocks: the largest magnitude of a block is the largest multiple, the others are rounded to the nearest.

    Args:
        values: Blocks, `[num_blocks, BLOCK] float32`. A block with a value that is not finite is decoded to NaN, so that
            the update is skipped.
        bits: 8 or 4.

    Returns:
        Messages, `[num_blocks, BLOCK * bits / 8 + SCALE_BYTES] uint8`: the values, then the scale.
    """
    limit = 2 ** (bits - 1) - 1
    scales = jnp.max(jnp.abs(values), axis=1) / limit
    # A maximum on XLA:CPU may leave out NaN.
    scales = jnp.where(jnp.isfinite(values).all(axis=1), scales, jnp.nan)
    divisors = jnp.where(scales > 0, scales, 1.0)[:, None]
    codes = jnp.clip(jnp.round(values / divisors), -limit, limit).astype(jnp.int8)
    if bits == 8:
        packed = jax.lax.bitcast_convert_type(codes, jnp.uint8)
    else:
        # The first half of a block is in the low bits, the second half in the high bits.
        shifted = (codes + 8).astype(jnp.uint8)
        packed = shifted[:, : BLOCK // 2] | (shifted[:, BLOCK // 2 :] << 4)
    return jnp.concatenate([packed, jax.lax.bitcast_convert_type(scales, jnp.uint8)], axis=1)


def decode(messages: jax.Array, bits: int) -> jax.Array:
    """Returns the values of messages of `encode`, `[num_blocks, BLOCK] float32`."""
    packed, scale_bytes = messages[:, :-SCALE_BYTES], messages[:, -SCALE_BYTES:]
    scales = jax.lax.bitcast_convert_type(scale_bytes, jnp.float32)
    if bits == 8:
        codes = jax.lax.bitcast_convert_type(packed, jnp.int8)
    else:
        codes = jnp.concatenate([packed & 15, packed >> 4], axis=1).astype(jnp.int8) - 8
    return codes.astype(jnp.float32) * scales[:, None]


class Residuals(NamedTuple):
    """Rounding errors of one device that the next sum adds; both are values per device of a state.

    Attributes:
        sent: Errors of the device's own vector, `[padded size] float32`.
        summed: Errors of the sums of the device's share, `[padded size / num_devices] float32`.
    """

    sent: jax.Array
    summed: jax.Array


@dataclasses.dataclass(frozen=True)
class QuantisedSum:
    """Sum of a tree over all devices in 8 or 4 bits a value; for use inside the step of one device.

    A caller keeps the residuals in its state, one value per device, and passes them to the next call. For a mean, each
    device divides its tree before the call. With one device nothing is sent and nothing is rounded.

    Attributes:
        bits: 8 or 4.
        num_devices: Number of devices.
    """

    bits: int
    num_devices: int

    def residuals(self, tree: PyTree) -> Residuals:
        """Returns the residuals of one device before the first sum.

        Args:
            tree: Arrays or shapes of the trees to sum.
        """
        size = self._padded_size(tree)
        return Residuals(jnp.zeros(size, jnp.float32), jnp.zeros(size // self.num_devices, jnp.float32))

    def __call__(self, tree: PyTree, residuals: Residuals) -> tuple[PyTree, Residuals]:
        """Returns the sum over all devices, equal on all of them, in float32, and the new residuals of this device.

        Residuals of a sum with a value that is not finite are not finite: the caller keeps the old ones if it discards
        the sum.

        Args:
            tree: This device's arrays.
            residuals: Residuals of the previous call.
        """
        if self.num_devices == 1:
            return tree, residuals
        leaves, structure = jax.tree.flatten(tree)
        padding = jnp.zeros(self._padded_size(tree) - sum(leaf.size for leaf in leaves), jnp.float32)
        vector = jnp.concatenate([*(leaf.astype(jnp.float32).reshape(-1) for leaf in leaves), padding])
        own = (vector + residuals.sent).reshape(-1, BLOCK)
        messages = encode(own, self.bits)
        sent_errors = own - decode(messages, self.bits)
        shares = messages.reshape(self.num_devices, -1, messages.shape[1])
        received = jax.lax.all_to_all(shares, AXIS, split_axis=0, concat_axis=0)
        parts = decode(received.reshape(messages.shape), self.bits).reshape(self.num_devices, -1, BLOCK)
        share = parts.sum(axis=0) + residuals.summed.reshape(-1, BLOCK)
        messages = encode(share, self.bits)
        share_errors = share - decode(messages, self.bits)
        total = decode(jax.lax.all_gather(messages, AXIS, tiled=True), self.bits).reshape(-1)
        sums, end = [], 0
        for leaf in leaves:
            start, end = end, end + leaf.size
            sums.append(total[start:end].reshape(leaf.shape))
        return jax.tree.unflatten(structure, sums), Residuals(sent_errors.reshape(-1), share_errors.reshape(-1))

    def _padded_size(self, tree: PyTree) -> int:
        """Returns the number of values that are sent: whole blocks, as many for every device."""
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
        whole = self.num_devices * BLOCK
        return -(-size // whole) * whole

    def bytes_on_wire(self, tree: PyTree) -> float:
        """Returns the bytes that a device sends in one sum, scales included.

        Args:
            tree: Arrays or shapes of the trees to sum.
        """
        message = BLOCK * self.bits // 8 + SCALE_BYTES
        all_messages = self._padded_size(tree) // BLOCK * message
        # The all-to-all and the all-gather: each sends all but the device's own share.
        return 2 * gather_bytes(all_messages, self.num_devices)
