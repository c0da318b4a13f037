"""Sharded parameters inside SPMD programs: gathered in the compute dtype, gradients summed in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_training import assert_equal_trees, topology

from jaxdp.parallel.devices import AXIS
from jaxdp.parallel.layout import REPLICATED, abstract_in, device_axes, from_true, layout_like, sharded, to_true
from jaxdp.parallel.sharding import (
    gather_all,
    gather_parameter,
    on_whole_leaves,
    own_shard,
    parameter_gather,
    scatter_sum,
)
from jaxdp.parallel.spmd import compile_spmd

NUM_DEVICES = 4


def collectives(function, *arguments):
    """(primitive, dtype) of each collective of a function of one device."""
    trace = jax.make_jaxpr(function, axis_env=[(AXIS, NUM_DEVICES)])(*arguments)
    found = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("all_gather", "reduce_scatter", "psum", "psum_invariant"):
                found.append((equation.primitive.name, str(equation.invars[0].aval.dtype)))
            for value in equation.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(trace.jaxpr)
    return found


def on_devices(function, *arrays):
    """Results `[num_devices, ...]` of a function of one device, of arrays `[num_devices, ...]`."""
    here = topology(NUM_DEVICES)
    specs = [jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=here.per_device) for array in arrays]
    program = compile_spmd(function, here, *specs, out_axes=0)
    return jax.device_get(program(*(jax.device_put(array, here.per_device) for array in arrays)))


@pytest.mark.parametrize("axis", [0, 1])
def test_a_gathered_parameter_is_whole_and_its_gradient_the_sum_of_all_devices(axis):
    random = np.random.default_rng(axis)
    whole = random.normal(size=(8, 12)).astype(np.float32)
    slopes = random.normal(size=(NUM_DEVICES, 8, 12)).astype(np.float32)
    shards = np.stack(np.split(whole, NUM_DEVICES, axis))

    def function(shard, slope):
        def value(shard):
            gathered = gather_parameter(shard, axis)
            return jnp.sum(gathered * slope), gathered

        (_, gathered), gradient = jax.value_and_grad(value, has_aux=True)(shard)
        return gathered, gradient

    gathered, gradients = on_devices(function, shards, slopes)
    for each in gathered:
        np.testing.assert_array_equal(each, whole)
    np.testing.assert_allclose(np.concatenate(list(gradients), axis), slopes.sum(axis=0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("returned", [None, "float32"])
def test_bfloat16_is_sent_and_float32_summed(returned):
    """1 + 256 is 256 in bfloat16; and within a device, as of the tokens that share an embedding, it is so too."""
    shards = np.full((NUM_DEVICES, 2, 3), 1 + 2**-10, np.float32)
    slopes = np.ones((NUM_DEVICES, 8, 3), np.float32)
    slopes[0] = 256

    def value(shard, slope):
        gathered = gather_parameter(shard, 0, "bfloat16", returned)
        assert gathered.dtype == (returned or "bfloat16")
        return jnp.sum(gathered.astype(jnp.float32) * slope) + (jnp.sum(gathered) if returned else 0.0)

    gradients = on_devices(jax.grad(value), shards, slopes)
    assert gradients.dtype == np.float32
    np.testing.assert_array_equal(gradients, 259 + (NUM_DEVICES if returned else 0))
    assert collectives(jax.value_and_grad(value), shards[0], slopes[0]) == [
        ("all_gather", "bfloat16"),
        ("reduce_scatter", "float32"),
    ]
    values = on_devices(lambda shard: gather_parameter(shard, 0, "bfloat16", returned).astype(jnp.float32), shards)
    np.testing.assert_array_equal(values, 1.0)  # rounded as it was sent


def test_scattered_sums_and_own_shards():
    random = np.random.default_rng(3)
    wholes = random.normal(size=(NUM_DEVICES, 3, 8)).astype(np.float32)
    sums = on_devices(lambda whole: scatter_sum(whole, 1), wholes)
    np.testing.assert_allclose(np.concatenate(list(sums), 1), wholes.sum(axis=0), rtol=1e-6, atol=1e-6)
    own = on_devices(lambda whole: own_shard(whole, 1, NUM_DEVICES), wholes)
    for device, shard in enumerate(own):
        np.testing.assert_array_equal(shard, np.split(wholes[device], NUM_DEVICES, 1)[device])


def test_a_model_gathers_what_is_its_own_and_a_layer_its_own():
    layout = {
        "token_embedding": sharded(1),
        "layers": {"mlp": {"kernel": sharded(2), "bias": REPLICATED}},
        "encoder": {"layer_3": {"kernel": sharded(0)}},
    }
    gather = parameter_gather(layout, "bfloat16")
    assert gather.axes == (("*/mlp/kernel", 1), ("encoder/*/kernel", 0), ("token_embedding", 1))
    shards = {
        "token_embedding": jnp.zeros((6, 2)),
        "layers": {"mlp": {"kernel": jnp.zeros((5, 6, 2)), "bias": jnp.zeros((5, 8))}},
        "encoder": {"layer_3": {"kernel": jnp.zeros((2, 6))}},
    }

    def shapes(params, prefix=""):
        return jax.eval_shape(lambda params: on_devices_shape(gather, params, prefix), params)

    def on_devices_shape(gather, params, prefix):
        mapped = jax.vmap(lambda _, params: gather(params, prefix), in_axes=(0, None), axis_name=AXIS)
        return jax.tree.map(lambda leaf: leaf[0], mapped(jnp.zeros(NUM_DEVICES), params))

    found = shapes(shards)
    assert found["token_embedding"].shape == (6, 8)
    # Parameters outside the layers keep their dtype: the gradient of an embedding is a sum over tokens.
    assert found["token_embedding"].dtype == jnp.float32
    assert found["layers"]["mlp"]["kernel"].shape == (5, 6, 2) and found["encoder"]["layer_3"]["kernel"].shape == (2, 6)
    layer = shapes({"mlp": {"kernel": jnp.zeros((6, 2)), "bias": jnp.zeros(8)}}, "*")
    assert (layer["mlp"]["kernel"].shape, layer["mlp"]["kernel"].dtype) == ((6, 8), jnp.bfloat16)
    assert (layer["mlp"]["bias"].shape, layer["mlp"]["bias"].dtype) == ((8,), jnp.float32)
    assert shapes({"kernel": jnp.zeros((2, 6))}, "encoder/*")["kernel"].shape == (8, 6)


def test_without_shards_there_is_nothing_to_gather():
    assert parameter_gather({"kernel": REPLICATED}, "float32") is None


@pytest.mark.parametrize("needs", [("kernel", "other"), ("kernel",), ()])
def test_whole_matrices_for_optimizers_that_need_them(needs):
    """Normalisation by the norm of a matrix, with a moment: equal to the update of whole parameters."""

    def scaled_by_norm():
        def init(params):
            return {"count": jnp.zeros((), jnp.int32), "moment": jax.tree.map(jnp.zeros_like, params)}

        def update(updates, state, params=None):
            moment = jax.tree.map(lambda old, new: 0.5 * old + new, state["moment"], updates)
            changes = {
                name: leaf / jnp.sqrt(jnp.sum(leaf**2)) if name in needs else -leaf for name, leaf in moment.items()
            }
            return changes, {"count": state["count"] + 1, "moment": moment}

        return optax.GradientTransformation(init, update)

    random = np.random.default_rng(5)
    shapes = {"kernel": (8, 6), "other": (3, 4), "small": (5,)}
    draw = lambda: {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}  # noqa: E731
    params, gradients = draw(), [draw(), draw()]
    layout = {"kernel": sharded(0), "other": sharded(1), "small": REPLICATED}
    whole = scaled_by_norm()
    shards = on_whole_leaves(whole, lambda name, leaf: name in needs, layout, NUM_DEVICES)
    state = whole.init(params)
    state_layout = layout_like(state, params, layout)
    here = topology(NUM_DEVICES)
    specs = [abstract_in(tree, of_tree, here) for tree, of_tree in ((params, layout), (state, state_layout))]
    stored = from_true(state, state_layout, NUM_DEVICES)
    program = compile_spmd(
        lambda updates, state: shards.update(updates, state),
        here, *specs, out_axes=(device_axes(specs[0]), device_axes(specs[1])),
    )  # fmt: skip
    place = lambda tree, specs: jax.tree.map(lambda leaf, spec: jax.device_put(leaf, spec.sharding), tree, specs)  # noqa: E731
    stored = place(stored, specs[1])
    for each in gradients:
        expected, state = whole.update(each, state)
        changes, stored = program(place(from_true(each, layout, NUM_DEVICES), specs[0]), stored)
        assert_equal_trees(to_true(changes, layout), expected, rtol=1e-6, atol=1e-6)
        assert_equal_trees(to_true(stored, state_layout), state, rtol=1e-6, atol=1e-6)
    text = program.call.as_text()
    assert (" all-gather(" in text) == bool(needs)


def test_gather_all_gathers_only_what_is_sharded():
    layout = {"kernel": sharded(0), "bias": REPLICATED}
    trees = {
        "kernel": np.arange(8, dtype=np.float32).reshape(NUM_DEVICES, 2),
        "bias": np.ones((NUM_DEVICES, 3), np.float32),
    }
    found = on_devices(lambda kernel, bias: gather_all({"kernel": kernel, "bias": bias}, layout), *trees.values())
    for device in range(NUM_DEVICES):
        np.testing.assert_array_equal(found["kernel"][device], np.arange(8))
        np.testing.assert_array_equal(found["bias"][device], np.ones(3))
