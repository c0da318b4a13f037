"""Work of traced programs: matrix products with the rounds of their loops, against counts by hand."""

import jax
import jax.numpy as jnp

from jaxdp.plan.work import Work, work_of


def counted(function, *shapes):
    return work_of(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)))


def test_one_product():
    assert counted(lambda a, b: jnp.sin(a @ b), (3, 5), (5, 7)) == Work(2 * 3 * 5 * 7, 4 * (15 + 35 + 21))


def test_batched_product():
    assert (
        counted(lambda a, b: jnp.einsum("bhqd,bhkd->bhqk", a, b), (2, 3, 4, 8), (2, 3, 6, 8)).flops
        == 2 * 2 * 3 * 4 * 6 * 8
    )


def test_loops_count_their_rounds_and_branches_the_larger_one():
    def scanned(x):
        body = lambda carry, _: (jax.lax.fori_loop(0, 3, lambda _, c: c @ c, carry), None)  # noqa: E731
        return jax.lax.scan(body, x, None, length=5)[0]

    assert counted(scanned, (4, 4)).flops == 15 * 2 * 4**3
    branches = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x)  # noqa: E731
    assert counted(branches, (4, 4)).flops == 2 * 2 * 4**3


def test_remat_counts_what_is_computed_again():
    def loss(x, w):
        return jnp.sum(jax.checkpoint(lambda x: jnp.sin(jnp.sin(x @ w) @ w))(x))

    plain, shapes = 2 * 4**3, ((4, 4), (4, 4))
    # Two products forward, both again, and two gradients of each.
    assert counted(jax.grad(loss, argnums=(0, 1)), *shapes).flops == 8 * plain
