"""From host arrays to global device arrays."""

import jax
import jax.numpy as jnp
import numpy as np
from tiny_training import topology

from jaxdp.parallel.placement import (
    abstract_batch,
    abstract_replicated,
    place_batch,
    place_per_device,
)


def test_rows_lie_on_the_devices_in_order():
    here = topology(4)
    host = {"tokens": np.arange(24, dtype=np.int32).reshape(8, 3), "row_ids": np.arange(8, dtype=np.int32)}
    placed = place_batch(host, here)
    assert placed["tokens"].shape == (4, 2, 3)
    assert placed["row_ids"].shape == (4, 2)
    for index, shard in enumerate(placed["tokens"].addressable_shards):
        assert shard.device == here.devices[index]
        np.testing.assert_array_equal(shard.data[0], host["tokens"][2 * index : 2 * index + 2])


def test_a_row_per_device():
    here = topology(2)
    placed = place_per_device(np.array([[1, 2], [3, 4]]), here)
    assert placed.sharding.is_equivalent_to(here.per_device, 2)
    np.testing.assert_array_equal(placed.addressable_shards[1].data, [[3, 4]])


def test_specs_are_those_of_what_is_placed():
    here = topology(4)
    host = {"tokens": np.zeros((8, 3), np.int32)}
    spec = abstract_batch({"tokens": jax.ShapeDtypeStruct((2, 3), jnp.int32)}, here)["tokens"]
    placed = place_batch(host, here)["tokens"]
    assert (spec.shape, spec.dtype) == (placed.shape, placed.dtype)
    assert spec.sharding == placed.sharding

    state = jax.device_put({"kernel": np.ones((2, 2), np.float32), "step": np.int32(0)}, here.replicated)
    specs = abstract_replicated(state, here)
    for name, leaf in state.items():
        assert (specs[name].shape, specs[name].dtype) == (leaf.shape, leaf.dtype)
        assert specs[name].sharding == leaf.sharding
