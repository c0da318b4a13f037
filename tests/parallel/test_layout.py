"""Layouts: which axis is divided, and the conversion between true shapes and shards."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_training import assert_equal_trees, topology

from jaxdp.model import model_config, parameter_shapes
from jaxdp.parallel.layout import (
    MIN_SHARDED_ELEMENTS,
    PER_DEVICE,
    REPLICATED,
    abstract_in,
    abstract_true,
    device_axes,
    from_true,
    is_replicated,
    layout_like,
    params_layout,
    placed_by,
    replicated_layout,
    shard_axis,
    sharded,
    sharded_axes,
    stored_shape,
    to_true,
)
from jaxdp.trees import named_leaves, num_elements


@pytest.mark.parametrize(
    ("name", "shape", "num_devices", "axis"),
    [
        ("layer_0/mlp/up/kernel", (64, 256), 8, 1),
        ("layer_0/mlp/down/kernel", (256, 64), 8, 0),
        ("layer_0/attention/query/kernel", (64, 64), 8, 0),  # of equal axes the first
        ("token_embedding", (257, 64), 8, 1),  # the largest axis that divides, not the largest axis
        ("token_embedding", (257, 63), 8, None),  # no axis divides
        ("layers/mlp/up/kernel", (8, 64, 256), 8, 2),
        ("layers/mlp/up/kernel", (512, 64, 64), 8, 1),  # not the axis of the layers
        ("layers/mlp_norm/scale", (512, 64), 8, None),  # small, whatever the number of layers
        ("layer_0/mlp_norm/scale", (64,), 8, None),
        ("layer_0/mlp/up/bias", (MIN_SHARDED_ELEMENTS,), 8, 0),
        ("layer_0/mlp/up/bias", (MIN_SHARDED_ELEMENTS - 8,), 8, None),
        ("layer_0/mlp/up/kernel", (64, 256), 1, None),
    ],
)
def test_the_largest_axis_that_divides_is_divided(name, shape, num_devices, axis):
    assert shard_axis(name, shape, num_devices) == axis


def shapes_of(preset, **overrides):
    return parameter_shapes(model_config(preset, overrides, vocab_size=300, max_length=128))


@pytest.mark.parametrize("preset", ["nano", "seq2seq_nano", "t5_small", "bert_base"])
def test_scanned_and_unrolled_layers_are_divided_alike(preset):
    layouts = [params_layout(shapes_of(preset, scan_layers=scanned), 8) for scanned in (False, True)]
    unrolled, scanned = map(sharded_axes, layouts)
    assert unrolled == scanned and len(unrolled) > 5
    assert not is_replicated(layouts[0])


def test_what_stays_replicated_is_under_one_percent_of_gpt2():
    shapes = parameter_shapes(model_config("gpt2", {}, vocab_size=50257, max_length=1024))
    for num_devices in (2, 4, 8, 16):
        layouts = params_layout(shapes, num_devices)
        kept = [
            leaf.size
            for leaf, layout in zip(jax.tree.leaves(shapes), jax.tree.leaves(layouts), strict=True)
            if layout == REPLICATED
        ]
        assert 0 < sum(kept) < 0.01 * num_elements(shapes)


def test_if_nothing_divides_everything_is_replicated():
    shapes = shapes_of("nano")
    assert is_replicated(params_layout(shapes, 7)) and is_replicated(params_layout(shapes, 1))
    assert sharded_axes(params_layout(shapes, 7)) == {}


@pytest.mark.parametrize("seed", range(12))
def test_true_shapes_come_back(seed):
    """Against NumPy: device d has the d-th of equal pieces along the axis."""
    random = np.random.default_rng(seed)
    num_devices = int(random.choice([1, 2, 4, 8]))
    shape = [int(random.integers(1, 4)) for _ in range(random.integers(1, 5))]
    axis = int(random.integers(len(shape)))
    shape[axis] *= num_devices
    tree = {"sharded": random.normal(size=shape), "whole": random.normal(size=(3,)), "own": random.normal(size=(2,))}
    tree = jax.tree.map(jnp.float32, tree)
    layout = {"sharded": sharded(axis), "whole": REPLICATED, "own": PER_DEVICE}
    stored = from_true(tree, layout, num_devices)
    pieces = np.split(np.asarray(tree["sharded"]), num_devices, axis)
    np.testing.assert_array_equal(stored["sharded"], np.stack(pieces))
    np.testing.assert_array_equal(stored["own"], np.stack([tree["own"]] * num_devices))
    for name, leaf in stored.items():
        assert leaf.shape == stored_shape(tree[name].shape, layout[name], num_devices)
    back = to_true(stored, layout)
    assert_equal_trees(back["sharded"], tree["sharded"])
    assert_equal_trees(back["whole"], tree["whole"])


def test_optimizer_states_are_divided_as_their_parameters():
    shapes = shapes_of("nano", scan_layers=True)
    of_params = params_layout(shapes, 8)
    state = jax.eval_shape(optax.chain(optax.clip(1.0), optax.adam(1e-3), optax.trace(0.9)).init, shapes)
    layouts = dict(named_leaves(layout_like(state, shapes, of_params)))
    expected = dict(named_leaves(of_params))
    moments = [name for name in layouts if name.split("/")[-1] != "count"]
    assert len(moments) == 3 * len(expected)
    for name, layout in layouts.items():
        of_param = [known for known in expected if name.endswith(f"/{known}")]
        assert layout == (expected[max(of_param, key=len)] if of_param else REPLICATED), name


def test_factored_moments_of_other_shapes_are_replicated():
    shapes = {"kernel": jax.ShapeDtypeStruct((256, 128), jnp.float32)}
    state = jax.eval_shape(optax.adafactor(1e-3, momentum=0.9).init, shapes)
    layouts = layout_like(state, shapes, {"kernel": sharded(0)})
    by_shape = {
        leaf.shape: layout for leaf, layout in zip(jax.tree.leaves(state), jax.tree.leaves(layouts), strict=True)
    }
    assert by_shape[(256, 128)] == sharded(0)
    assert {by_shape[shape] for shape in ((256,), (128,))} == {REPLICATED}


def test_a_parameter_of_the_same_path_and_another_shape_is_another_one():
    like = layout_like(
        {"mu": {"kernel": jnp.zeros((4, 8))}, "other": {"kernel": jnp.zeros((4,))}},
        {"kernel": jnp.zeros((4, 8))},
        {"kernel": sharded(1)},
    )
    assert like == {"mu": {"kernel": sharded(1)}, "other": {"kernel": REPLICATED}}


def test_shardings_and_axes_follow():
    here = topology(4)
    tree = {"a": jax.ShapeDtypeStruct((8, 3), jnp.float32), "b": jax.ShapeDtypeStruct((3,), jnp.int32)}
    layout = {"a": sharded(0), "b": REPLICATED}
    stored = abstract_in(tree, layout, here)
    assert stored["a"].shape == (4, 2, 3) and stored["a"].sharding == here.per_device
    assert stored["b"].shape == (3,) and stored["b"].sharding == here.replicated
    assert device_axes(stored) == {"a": 0, "b": None}
    assert device_axes(stored["b"]) is None and device_axes([stored["a"]]) == 0 and device_axes(()) is None
    true = abstract_true(tree, layout, here)
    assert true["a"].shape == (8, 3) and true["a"].sharding.shard_shape((8, 3)) == (2, 3)


COLLECTIVES = ("all-gather", "all-to-all", "all-reduce", "collective-permute", "reduce-scatter")


def test_conversions_move_nothing_between_devices():
    """The shard of a device in either form is the same numbers, so no collective and no whole leaf is needed."""
    here = topology(8)
    shapes = shapes_of("nano", scan_layers=True)
    layout = params_layout(shapes, 8)
    true, stored = abstract_true(shapes, layout, here), abstract_in(shapes, layout, here)
    there = placed_by(lambda tree: from_true(tree, layout, 8), stored).lower(true).compile()
    back = placed_by(lambda tree: to_true(tree, layout), true).lower(stored).compile()
    largest = max(leaf.size for leaf in jax.tree.leaves(shapes)) * 4
    for program in (there, back):
        assert not [name for name in COLLECTIVES if name in program.as_text()]
        memory = program.memory_analysis()
        assert memory.temp_size_in_bytes < largest // 4
    assert is_replicated(replicated_layout(shapes))
