"""Gradients as few large messages."""

import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from tiny_training import topology

from jaxdp.errors import UserError
from jaxdp.parallel.buckets import GradientSync, split_into_buckets
from jaxdp.parallel.devices import AXIS
from jaxdp.parallel.placement import abstract_batch, place_per_device
from jaxdp.parallel.spmd import compile_spmd

SHAPES = {"a": (3, 4), "b": (), "c": (5,), "d": (2, 2, 2)}


@pytest.mark.parametrize("seed", range(20))
def test_buckets_keep_order_and_fill_up_to_the_limit(seed):
    random = np.random.default_rng(seed)
    sizes = random.integers(0, 50, random.integers(1, 30)).tolist()
    limit = float(random.integers(1, 80))
    buckets = split_into_buckets(sizes, limit)
    assert [index for bucket in buckets for index in bucket] == list(range(len(sizes)))
    totals = [sum(sizes[index] for index in bucket) for bucket in buckets]
    for bucket, total in zip(buckets, totals, strict=True):
        assert total <= limit or len(bucket) == 1
    for total, following in zip(totals, buckets[1:], strict=False):
        assert total + sizes[following[0]] > limit  # it was closed because the next did not fit


def test_without_a_limit_there_is_one_bucket():
    assert split_into_buckets([3, 1000, 5], math.inf) == [[0, 1, 2]]
    assert split_into_buckets([], math.inf) == []


def test_a_leaf_beyond_the_limit_is_alone():
    assert split_into_buckets([1, 10, 1, 1], 4) == [[0], [1], [2, 3]]


def gradients_of_devices(count):
    random = np.random.default_rng(count)
    return {name: random.normal(size=(count, *shape)).astype(np.float32) for name, shape in SHAPES.items()}


def synchronised(sync, gradients):
    """Every device's result, `[num_devices, ...]`: replicated outputs would show the first alone."""
    count = len(gradients["a"])
    here = topology(count)
    spec = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}
    program = compile_spmd(
        lambda leaves: sync.unpack(sync.reduce(leaves, count), leaves, count),
        here,
        abstract_batch(spec, here),
        out_axes=0,
    )
    return jax.device_get(program({name: place_per_device(array, here) for name, array in gradients.items()}))


@pytest.mark.parametrize("sync", [GradientSync(), GradientSync(bucket_bytes=40)], ids=["one", "buckets"])
@pytest.mark.parametrize("count", [1, 2, 8])
def test_every_device_ends_with_the_mean(count, sync):
    gradients = gradients_of_devices(count)
    for name, means in synchronised(sync, gradients).items():
        expected = gradients[name].astype(np.float64).mean(axis=0)
        assert means.dtype == np.float32
        for mean in means:
            np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-7)


def test_a_narrow_wire_rounds_what_travels():
    gradients = gradients_of_devices(2)
    narrow = synchronised(GradientSync(wire_dtype="bfloat16"), gradients)
    for name, means in narrow.items():
        rounded = gradients[name].astype(ml_dtypes.bfloat16).astype(np.float64)
        np.testing.assert_allclose(means[0], rounded.mean(axis=0), rtol=2**-7, atol=1e-6)
        np.testing.assert_array_equal(means[0], means[0].astype(ml_dtypes.bfloat16))
        np.testing.assert_array_equal(means[1], means[0])


@pytest.mark.parametrize(
    ("sync", "expected"),
    [
        (GradientSync(), [("float32", 26)]),
        (GradientSync("bfloat16"), [("bfloat16", 26)]),
        (GradientSync(bucket_bytes=52), [("float32", 13), ("float32", 13)]),
        (GradientSync("bfloat16", bucket_bytes=36), [("bfloat16", 18), ("bfloat16", 8)]),
    ],
)
def test_messages_have_the_wires_type_and_at_most_a_buckets_bytes(sync, expected):
    """As the step asks for them: XLA on CPU widens bfloat16 and joins buckets again."""
    zeros = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    trace = jax.make_jaxpr(lambda leaves: sync.reduce(leaves, 4), axis_env=[(AXIS, 4)])(zeros)
    messages = [
        (str(variable.aval.dtype), variable.aval.size)
        for equation in trace.eqns
        if equation.primitive.name.startswith("psum")
        for variable in equation.invars
    ]
    assert messages == expected


def test_an_unknown_wire_type_is_refused():
    with pytest.raises(UserError, match=r"parallel\.wire_dtype='float16'.*float32 or bfloat16"):
        GradientSync(wire_dtype="float16")
