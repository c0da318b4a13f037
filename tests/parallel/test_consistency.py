"""One flipped bit in one device's copy is seen, and the device and the leaf are named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from replicas import flip_bit_of
from tiny_training import topology

from jaxdp.checksum import leaf_checksums
from jaxdp.parallel.consistency import (
    Disagreement,
    compile_checksums,
    describe_disagreements,
    find_disagreements,
)
from jaxdp.parallel.placement import abstract_replicated
from jaxdp.trees import named_leaves

TREE = {
    "kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "bias": np.zeros(5, jnp.bfloat16),
    "count": np.int32(7),
}
NAMES = [name for name, _ in named_leaves(TREE)]


@pytest.fixture(scope="module")
def here():
    return topology(4)


@pytest.fixture(scope="module")
def checksums(here):
    return compile_checksums(abstract_replicated(TREE, here), here)


def placed(here):
    return jax.device_put(TREE, here.replicated)


def test_equal_copies_have_equal_checksums(here, checksums):
    table = np.asarray(checksums(placed(here)))
    assert table.shape == (4, len(NAMES))
    np.testing.assert_array_equal(table, np.tile(leaf_checksums(TREE), (4, 1)))
    assert find_disagreements(table, NAMES) == []


@pytest.mark.parametrize(
    ("name", "element", "bit"),
    [("kernel", 0, 0), ("kernel", 11, 31), ("kernel", 5, 22), ("bias", 4, 15), ("bias", 0, 0), ("count", 0, 3)],
)
@pytest.mark.parametrize("position", [0, 3])
def test_a_flipped_bit_names_its_leaf_and_device(here, checksums, name, element, bit, position):
    tree = flip_bit_of(placed(here), name, here.devices[position], element=element, bit=bit)
    assert tree[name].is_fully_replicated  # as it looks to everyone else
    table = np.asarray(checksums(tree))
    assert find_disagreements(table, NAMES) == [Disagreement(name, (position,), True)]


def test_the_table_is_the_same_on_every_device(here, checksums):
    table = checksums(flip_bit_of(placed(here), "kernel", here.devices[1]))
    shards = [np.asarray(shard.data) for shard in table.addressable_shards]
    assert len(shards) == 4
    for shard in shards:
        np.testing.assert_array_equal(shard, shards[0])


@pytest.mark.parametrize(
    ("column", "devices", "has_majority"),
    [
        ([5, 5, 9, 5], (2,), True),
        ([9, 5, 5, 5], (0,), True),
        ([5, 9, 5, 8, 5], (1, 3), True),
        ([5, 5, 9, 9], (0, 1, 2, 3), False),
        ([5, 9], (0, 1), False),
        ([1, 2, 3], (0, 1, 2), False),
        ([5, 5, 8, 9], (0, 1, 2, 3), False),  # two of four are no majority
    ],
)
def test_the_majority_is_right(column, devices, has_majority):
    table = np.stack([np.zeros(len(column)), column], axis=1).astype(np.uint32)
    assert find_disagreements(table, ["same", "other"]) == [Disagreement("other", devices, has_majority)]


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ([Disagreement("kernel", (3,), True)], "device 3 (process 0) differs from the other 3 in kernel"),
        (
            [Disagreement("a", (0, 2), True), Disagreement("b", (0, 2), True)],
            "devices 0 (process 0), 2 (process 0) differ from the other 2 in a, b",
        ),
        (
            [Disagreement("a", (0, 1, 2, 3), False)],
            "devices 0 (process 0), 1 (process 0), 2 (process 0), 3 (process 0) differ from each other, with no "
            "majority that could be right, in a",
        ),
        (
            [Disagreement(name, (1,), True) for name in "abcdef"] + [Disagreement("g", (2,), True)],
            "device 1 (process 0) differs from the other 3 in a, b, c, d and 2 more; "
            "device 2 (process 0) differs from the other 3 in g",
        ),
    ],
)
def test_who_differs_in_what(here, found, sentence):
    assert describe_disagreements(found, here) == sentence
