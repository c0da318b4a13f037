"""Matrix products with gradients of their own: float32 results of half-precision operands, and operands that XLA:CPU multiplies fast."""

import jax
import jax.numpy as jnp


def matmul(left: jax.Array, right: jax.Array, platform: str) -> jax.Array:
    """Multiplies `[..., m, k]` by `[..., k, n]` with the result `[..., m, n]`.

    The gradient is that of JAX, but a CPU copies the transpose of `left` first.

    Args:
        left: Left operand.
        right: Right operand, in the same dtype.
        platform: Platform of the devices for which the program is compiled.
    """
    return _matmul(left, right, platform)


def _matmul_value(left: jax.Array, right: jax.Array, platform: str) -> jax.Array:
    return jnp.matmul(left, right)


def _matmul_forward(left, right, platform):
    return jnp.matmul(left, right), (left, right)


def _matmul_backward(platform, operands, cotangent):
    left, right = operands
    return jnp.matmul(cotangent, jnp.swapaxes(right, -1, -2)), jnp.matmul(_transposed(left, platform), cotangent)


_matmul = jax.custom_vjp(_matmul_value, nondiff_argnums=(2,))
_matmul.defvjp(_matmul_forward, _matmul_backward)


def matmul_float32(left: jax.Array, right: jax.Array, platform: str) -> jax.Array:
    """Multiplies `[..., m, k]` by the transpose of `[..., n, k]` with a float32 result `[..., m, n]`.

    JAX's own gradient would multiply the float32 cotangent by the bfloat16 operand in
    float32, which is many times slower on an accelerator. Here the cotangent is first
    rounded to the dtype of the operands.

    Args:
        left: Left operand.
        right: Right operand, in the same dtype.
        platform: Platform of the devices for which the program is compiled.
    """
    return _matmul_float32(left, right, platform)


def _matmul_float32_value(left: jax.Array, right: jax.Array, platform: str) -> jax.Array:
    return jnp.einsum("...mk,...nk->...mn", left, right, preferred_element_type=jnp.float32)


def _matmul_float32_forward(left, right, platform):
    return _matmul_float32_value(left, right, platform), (left, right)


def _matmul_float32_backward(platform, operands, cotangent):
    left, right = operands
    cotangent = cotangent.astype(left.dtype)
    return jnp.matmul(cotangent, right), jnp.matmul(_transposed(cotangent, platform), left)


_matmul_float32 = jax.custom_vjp(_matmul_float32_value, nondiff_argnums=(2,))
_matmul_float32.defvjp(_matmul_float32_forward, _matmul_float32_backward)


def _transposed(array: jax.Array, platform: str) -> jax.Array:
    """Swaps the last two axes; on a CPU as a copy.

    XLA:CPU packs a transposed left operand element by element. With a copy, which the barrier keeps XLA from undoing, a
    step of nanoGPT's CPU recipe took 4 % less time, and one of 6 layers x 384 6 % less.
    """
    transposed = jnp.swapaxes(array, -1, -2)
    return jax.lax.optimization_barrier(transposed) if platform == "cpu" else transposed
