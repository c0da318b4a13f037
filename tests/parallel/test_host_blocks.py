"""Blocks of the true arrays: copied from devices and placed on them, for every layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxdp.checksum import leaf_checksums
from jaxdp.parallel.devices import AXIS, Topology
from jaxdp.parallel.host_blocks import Range, host_block, local_range, place_leaf, shard_axes, true_shape, true_shapes
from jaxdp.parallel.layout import REPLICATED, abstract_in, from_true, placed_by, sharded

WHOLE = np.arange(16 * 24 * 8, dtype=np.float32).reshape(16, 24, 8) - 700


def topology(num_devices=4):
    return Topology(tuple(jax.devices()[:num_devices]), num_processes=1, process_index=0)


def stored(layout, num_devices=4):
    """The array as the devices hold it, and its specification."""
    spec = abstract_in(jnp.asarray(WHOLE), layout, topology(num_devices))
    return placed_by(lambda: from_true(jnp.asarray(WHOLE), layout, num_devices), spec)(), spec


LAYOUTS = [REPLICATED, sharded(0), sharded(1), sharded(2)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_block_is_the_true_array_and_returns_to_the_devices(layout):
    leaf, spec = stored(layout)
    assert true_shape(leaf.shape, layout) == WHOLE.shape and local_range(leaf, layout) is None
    block = host_block(leaf, layout)
    np.testing.assert_array_equal(block, WHOLE)
    again = place_leaf(spec, layout, block)
    assert again.sharding == spec.sharding
    for shard, expected in zip(again.addressable_shards, leaf.addressable_shards, strict=True):
        np.testing.assert_array_equal(shard.data, expected.data)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_block_outlives_the_array(layout):
    leaf, _ = stored(layout)
    block = host_block(leaf, layout)
    jax.block_until_ready(jax.jit(lambda x: x * 0, donate_argnums=0)(leaf))
    np.testing.assert_array_equal(block, WHOLE)


def test_leaves_of_true_shape_follow_their_sharding():
    sharding = NamedSharding(topology().mesh, PartitionSpec(None, AXIS))
    leaf = jax.device_put(WHOLE, sharding)
    np.testing.assert_array_equal(host_block(leaf), WHOLE)
    assert local_range(leaf) is None


class OtherProcess:
    """Sharding with some devices that are not addressable."""

    def __init__(self, sharding, first, last):
        self.sharding, self.first, self.last = sharding, first, last

    def addressable_devices_indices_map(self, shape):
        indices = list(self.sharding.devices_indices_map(shape).items())
        return dict(indices[self.first : self.last])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_range_of_a_process_is_that_of_its_devices(axis):
    _, spec = stored(sharded(axis))
    part = WHOLE.shape[axis] // 4
    for first in range(0, 4, 2):
        leaf = type("Leaf", (), {"shape": spec.shape, "sharding": OtherProcess(spec.sharding, first, first + 2)})
        assert local_range(leaf, sharded(axis)) == Range(axis, first * part, (first + 2) * part)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_leaf_is_placed_from_the_range_that_is_needed(axis):
    """The array that is given may begin anywhere."""
    devices = topology(2)
    spec = abstract_in(jnp.asarray(WHOLE), sharded(axis), devices)
    held = Range(axis, 0, WHOLE.shape[axis])
    leaf = place_leaf(spec, sharded(axis), WHOLE, held)
    np.testing.assert_array_equal(host_block(leaf, sharded(axis)), WHOLE)


@pytest.mark.parametrize("num_devices", [2, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_checksums_of_shards_are_those_of_the_true_array(axis, num_devices, dtype):
    whole = jnp.asarray(WHOLE).astype(dtype)
    layout = sharded(axis)
    spec = abstract_in(whole, layout, topology(num_devices))
    leaf = placed_by(lambda: from_true(whole, layout, num_devices), spec)()
    program = jax.jit(lambda tree: leaf_checksums(tree, shard_axes([layout]))).lower([leaf]).compile()
    assert program([leaf]).tolist() == leaf_checksums([whole]).tolist()
    assert "all-gather" not in program.as_text()


def test_true_shapes_of_a_tree():
    _, spec = stored(sharded(1))
    assert true_shapes({"x": spec}, {"x": sharded(1)})["x"].shape == WHOLE.shape
