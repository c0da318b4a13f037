"""Checksums see every flipped bit and every swap."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxdp.checksum import array_checksum, leaf_checksums

VALUES = {
    "float32": np.array([0.0, -0.0, 1.5, -1.5, np.nan, 3e38], np.float32),
    "bfloat16": np.array([0.0, 1.0, -1.0, 0.007], ml_dtypes.bfloat16),
    "int32": np.array([0, 1, -1, 2**31 - 1], np.int32),
    "uint32": np.array([0, 2**32 - 1], np.uint32),
}


def mixed(word):
    """lowbias32, in Python integers."""
    word = (word ^ (word >> 16)) * 0x7FEB352D % 2**32
    word = (word ^ (word >> 15)) * 0x846CA68B % 2**32
    return word ^ (word >> 16)


def unsigned(array):
    return array.view(f"u{array.dtype.itemsize}")


def checksums(arrays):
    return np.asarray(jax.jit(leaf_checksums)(list(map(jnp.asarray, arrays)))).tolist()


@pytest.mark.parametrize("dtype", VALUES)
def test_checksum_is_the_sum_of_mixed_words(dtype):
    words = unsigned(VALUES[dtype]).tolist()
    expected = sum(mixed(word ^ (index * 2654435769 % 2**32)) for index, word in enumerate(words)) % 2**32
    assert checksums([VALUES[dtype], VALUES[dtype].reshape(2, -1)]) == [expected, expected]


@pytest.mark.parametrize("dtype", VALUES)
def test_every_flipped_bit_changes_it(dtype):
    variants = [VALUES[dtype]]
    for index in range(len(VALUES[dtype])):
        for bit in range(8 * VALUES[dtype].dtype.itemsize):
            flipped = VALUES[dtype].copy()
            unsigned(flipped)[index] ^= unsigned(flipped).dtype.type(1 << bit)
            variants.append(flipped)
    found = checksums(variants)
    assert found[0] not in found[1:]


def test_every_flipped_truth_value_changes_it():
    truth = np.array([True, False, False, True])
    found = checksums([truth, *(truth ^ (np.arange(4) == index) for index in range(4))])
    assert found[0] not in found[1:]


@pytest.mark.parametrize(
    ("one", "other", "distance"), [(1.0, 2.0, 1), (1.0, -1.0, 1), (0.5, -0.5, 7), (1.0, 2.0, 512), (3.0, 5.0, 1024)]
)
def test_every_swap_changes_it(one, other, distance):
    array = np.zeros(2048, np.float32)
    array[3], array[3 + distance] = one, other
    swapped = array.copy()
    swapped[3], swapped[3 + distance] = other, one
    assert len(set(checksums([array, swapped]))) == 2


def test_leaves_are_in_tree_order():
    tree = {"b": jnp.zeros(3), "a": jnp.ones(2)}
    assert np.asarray(leaf_checksums(tree)).tolist() == checksums([np.ones(2, np.float32), np.zeros(3, np.float32)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "uint32"])
def test_numpy_computes_the_same(dtype):
    array = np.random.default_rng(0).integers(0, 2, (3, 1 << 19, 1)).astype(dtype)  # more than one chunk
    assert array_checksum(array) == int(leaf_checksums([jnp.asarray(array)])[0])
