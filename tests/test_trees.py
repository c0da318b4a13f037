"""Names, sizes and ranks of the leaves of parameter trees."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdp.trees import (
    is_scanned,
    key_name,
    leaf_name,
    named_leaves,
    num_elements,
    per_layer_rank,
)


@flax.struct.dataclass
class Pair:
    left: object
    right: object


def test_leaves_are_named_by_keys_fields_and_places():
    tree = Pair(left={"layers": {"kernel": 1, "bias": 2}}, right=(3, [4, None]))
    assert named_leaves(tree) == [
        ("left/layers/bias", 2),
        ("left/layers/kernel", 1),
        ("right/0", 3),
        ("right/1/0", 4),
    ]


def test_the_name_of_a_bare_leaf_is_empty():
    assert named_leaves(5) == [("", 5)]


def test_an_unknown_kind_of_path_is_refused():
    with pytest.raises(TypeError, match="unknown kind"):
        key_name(object())


def test_only_a_whole_part_named_layers_is_scanned():
    assert is_scanned("params/layers/attention/query/kernel")
    assert not is_scanned("params/layer_0/attention/query/kernel")
    assert not is_scanned("my_layers/kernel")


def test_rank_of_one_layers_parameter():
    shape = jax.ShapeDtypeStruct((4, 2, 3), jnp.float32)
    assert per_layer_rank("layers/kernel", shape) == 2
    assert per_layer_rank("layer_0/kernel", shape) == 3


def test_elements_of_arrays_and_of_shapes():
    tree = {"a": np.zeros((2, 3)), "b": (jax.ShapeDtypeStruct((), jnp.int32), jnp.ones(4))}
    assert num_elements(tree) == 11
    assert num_elements({}) == 0


def test_leaf_name_joins_any_path():
    [(path, _)] = jax.tree.leaves_with_path({"a": [7]})
    assert leaf_name(path) == "a/0"
