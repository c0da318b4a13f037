"""Matrix products: the dense layer, and the product whose result stays float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dense(nn.Module):
    """`inputs @ kernel + bias`, computed on `[batch * length, features]`.

    The flat shape matters on XLA:CPU, where the backward pass of a product of
    rank 3 takes twice as long.
    """

    in_dim: int
    out_dim: int
    use_bias: bool
    dtype: str
    stddev: float  # of the new kernel

    def setup(self):
        init = nn.initializers.normal(self.stddev)
        self.kernel = self.param("kernel", init, (self.in_dim, self.out_dim), jnp.float32)
        if self.use_bias:
            self.bias = self.param("bias", nn.initializers.zeros, (self.out_dim,), jnp.float32)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Map `[..., in_dim]` to `[..., out_dim]` in `dtype`."""
        flat = inputs.reshape(-1, self.in_dim).astype(self.dtype)
        outputs = flat @ self.kernel.astype(self.dtype)
        if self.use_bias:
            outputs = outputs + self.bias.astype(self.dtype)[None, :]
        return outputs.reshape(*inputs.shape[:-1], self.out_dim)


@jax.custom_vjp
def matmul_float32(left: jax.Array, right: jax.Array) -> jax.Array:
    """Product of `[..., m, k]` and `[..., n, k]` as `[..., m, n]` float32.

    Autodiff of a product with a wider result would multiply the float32
    cotangent by the bfloat16 operand in float32, many times slower on an
    accelerator; here the cotangent is rounded to the operands' dtype first.
    """
    return jnp.einsum("...mk,...nk->...mn", left, right, preferred_element_type=jnp.float32)


def _matmul_forward(left, right):
    return matmul_float32(left, right), (left, right)


def _matmul_backward(operands, cotangent):
    left, right = operands
    cotangent = cotangent.astype(left.dtype)
    return (
        jnp.einsum("...mn,...nk->...mk", cotangent, right),
        jnp.einsum("...mn,...mk->...nk", cotangent, left),
    )


matmul_float32.defvjp(_matmul_forward, _matmul_backward)
