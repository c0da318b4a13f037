"""The compiled SPMD program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import topology

from jaxdp.parallel.devices import AXIS
from jaxdp.parallel.placement import abstract_batch, abstract_replicated, place_batch
from jaxdp.parallel.spmd import compile_spmd


@pytest.fixture(scope="module")
def scaled_sum():
    """(scale, {"rows"}) -> (scale + 1, scale x the sum of all rows), on four devices."""

    def function(scale, batch):
        assert scale.shape == (3,)  # true shapes inside
        assert batch["rows"].shape == (2, 3)
        total = jax.lax.psum(batch["rows"].sum(axis=0), AXIS)
        return scale + 1, scale * total

    here = topology(4)
    return compile_spmd(
        function,
        here,
        abstract_replicated(jax.ShapeDtypeStruct((3,), jnp.float32), here),
        abstract_batch({"rows": jax.ShapeDtypeStruct((2, 3), jnp.float32)}, here),
        donated=(0,),
    )


def test_a_program_sees_every_row_once_and_returns_true_shapes(scaled_sum):
    here = topology(4)
    rows = np.arange(24, dtype=np.float32).reshape(8, 3)
    scale = jax.device_put(np.array([1, 2, 3], np.float32), here.replicated)
    following, total = scaled_sum(scale, place_batch({"rows": rows}, here))
    np.testing.assert_array_equal(total, np.array([1, 2, 3]) * rows.sum(axis=0))
    np.testing.assert_array_equal(following, [2, 3, 4])
    for result in (following, total):
        assert result.sharding.is_equivalent_to(here.replicated, 1)
    assert scale.is_deleted()


def test_memory_and_time_are_known_before_the_first_call(scaled_sum):
    arguments, results = 4 * 3 + 4 * 6, 4 * 3 + 4 * 3
    assert arguments + results - 4 * 3 <= scaled_sum.device_bytes < 4096
    assert scaled_sum.compile_secs > 0


def test_other_shapes_are_refused_and_not_compiled(scaled_sum):
    here = topology(4)
    scale = jax.device_put(np.ones(3, np.float32), here.replicated)
    with pytest.raises(TypeError):
        scaled_sum(scale, place_batch({"rows": np.zeros((16, 3), np.float32)}, here))


def test_mapped_results_keep_the_axis_of_devices():
    here = topology(2)
    program = compile_spmd(
        lambda batch: batch["rows"] + jax.lax.axis_index(AXIS),
        here,
        abstract_batch({"rows": jax.ShapeDtypeStruct((2,), jnp.int32)}, here),
        out_axes=0,
    )
    result = program(place_batch({"rows": np.zeros(4, np.int32)}, here))
    np.testing.assert_array_equal(result, [[0, 0], [1, 1]])
