"""Matrix products: values and gradients against float64, their rounding, and the copy on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdp.model.products import matmul, matmul_float32

PRODUCTS = {
    "matmul": (matmul, (2, 3, 5, 7), (2, 3, 7, 4), "...mk,...kn->...mn"),
    "matmul_float32": (matmul_float32, (2, 3, 5, 7), (2, 3, 4, 7), "...mk,...nk->...mn"),
}


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_value_and_gradients_are_those_of_float64(name, platform):
    product, left_shape, right_shape, formula = PRODUCTS[name]
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=left_shape), rng.normal(size=right_shape)
    expected = np.einsum(formula, left, right)
    cotangent = rng.normal(size=expected.shape)
    operands, result = formula.split("->")
    of_left, of_right = operands.split(",")
    expected_gradients = (
        np.einsum(f"{result},{of_right}->{of_left}", cotangent, right),
        np.einsum(f"{result},{of_left}->{of_right}", cotangent, left),
    )
    value, pull = jax.vjp(lambda left, right: product(left, right, platform), jnp.float32(left), jnp.float32(right))
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    for gradient, wanted in zip(pull(jnp.float32(cotangent)), expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-5)


def test_only_a_cpu_copies_the_transpose():
    left, right = jnp.ones((4, 3)), jnp.ones((3, 2))

    def gradient(platform):
        return str(jax.make_jaxpr(jax.grad(lambda left, right: matmul(left, right, platform).sum(), 1))(left, right))

    assert "optimization_barrier" in gradient("cpu")
    assert "optimization_barrier" not in gradient("tpu")


def test_scores_of_half_precision_are_float32_and_their_gradients_are_not():
    left, right = jnp.ones((4, 3), jnp.bfloat16), jnp.ones((2, 3), jnp.bfloat16)
    scores, pull = jax.vjp(lambda left, right: matmul_float32(left, right, "gpu"), left, right)
    assert scores.dtype == jnp.float32
    assert [gradient.dtype for gradient in pull(scores)] == [jnp.bfloat16, jnp.bfloat16]
