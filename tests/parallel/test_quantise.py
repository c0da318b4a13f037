"""Quantised blocks and their sum over devices against NumPy, written out byte by byte."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import topology

from jaxdp.parallel.placement import abstract_batch, place_per_device
from jaxdp.parallel.quantise import BLOCK, QuantisedSum, Residuals, decode, encode
from jaxdp.parallel.spmd import compile_spmd

SHAPES = {"a": (30, 70), "b": (), "c": (5,), "d": (2, 3, 400)}
DEVICES, STEPS = 4, 6
LENGTH = sum(int(np.prod(shape)) for shape in SHAPES.values())


def reference_block(values, bits, scale=None):
    """The bytes of one block and the values that they stand for, float32."""
    scale = np.abs(values).max() / np.float32(127 if bits == 8 else 7) if scale is None else scale
    codes = [int(np.rint(value / scale)) if scale else 0 for value in values]
    if bits == 8:
        packed = [code % 256 for code in codes]
    else:
        packed = [(low + 8) + 16 * (high + 8) for low, high in zip(codes[:128], codes[128:], strict=True)]
    return bytes(packed) + scale.tobytes(), np.array(codes, np.float32) * scale


def reference_rounded(vector, bits):
    return np.concatenate([reference_block(block, bits)[1] for block in vector.reshape(-1, BLOCK)])


def blocks(seed, num_blocks=7):
    random = np.random.default_rng(seed)
    values = random.normal(size=(num_blocks, BLOCK)) * 10.0 ** random.integers(-8, 5, (num_blocks, 1))
    values[0] = 0.0
    values[1, 5:] = 0.0
    return values.astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bits", [8, 4])
def test_messages_are_those_of_the_reference(bits, seed):
    values = blocks(seed)
    messages = np.asarray(encode(values, bits))
    assert messages.shape == (7, BLOCK * bits // 8 + 4) and messages.dtype == np.uint8
    for message, block, found in zip(messages, values, np.asarray(decode(messages, bits)), strict=True):
        scale = np.frombuffer(bytes(message[-4:]), np.float32)[0]
        np.testing.assert_allclose(scale, np.abs(block).max() / (127 if bits == 8 else 7), rtol=1e-6)
        expected, rounded = reference_block(block, bits, scale)
        assert bytes(message) == expected
        np.testing.assert_array_equal(found, rounded)
        assert np.abs(found - block).max() <= scale * 0.5001


@pytest.mark.parametrize("bits", [8, 4])
def test_every_code_survives_next_to_every_other(bits):
    limit = 2 ** (bits - 1) - 1
    codes = np.random.default_rng(0).integers(-limit, limit + 1, (64, BLOCK)).astype(np.float32)
    codes[:, 0], codes[:, -1] = limit, -limit
    np.testing.assert_array_equal(decode(encode(codes * 0.25, bits), bits), codes * np.float32(0.25))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_value_that_is_not_finite_shows_after_the_sum(bits, bad):
    trees = vectors_of_devices(0)
    trees["d"][2, 1, 2, 3] = bad
    total, _ = Summed(bits)(trees, None)
    for device in range(DEVICES):
        assert not np.isfinite(total["d"][device]).all()


def test_tiny_values_do_not_become_infinite():
    values = np.full((1, BLOCK), 1e-44, np.float32)
    found = np.asarray(decode(encode(values, 4), 4))
    assert np.isfinite(found).all() and np.abs(found).max() < 1e-40


class Summed:
    """The compiled sum: every device's result and residuals, `[num_devices, ...]`."""

    def __init__(self, bits, num_devices=DEVICES):
        here, self.sum = topology(num_devices), QuantisedSum(bits, num_devices)
        spec = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}
        self.fresh = self.sum.residuals(spec)
        arguments = {"tree": spec, "residuals": self.fresh._asdict()}
        specs = [
            abstract_batch({name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in part.items()}, here)
            for part in arguments.values()
        ]
        self.topology = here
        self.program = compile_spmd(
            lambda tree, residuals: self.sum(tree, Residuals(**residuals)), here, *specs, out_axes=0
        )

    def __call__(self, trees, residuals):
        if residuals is None:
            residuals = Residuals(*(np.zeros((DEVICES, *leaf.shape), np.float32) for leaf in self.fresh))
        placed = [
            {name: place_per_device(np.asarray(array), self.topology) for name, array in part.items()}
            for part in (trees, residuals._asdict())
        ]
        return jax.device_get(self.program(*placed))


def vectors_of_devices(seed):
    random = np.random.default_rng(seed)
    return {
        name: (random.normal(size=(DEVICES, *shape)) * 10.0 ** random.integers(-3, 1)).astype(np.float32)
        for name, shape in SHAPES.items()
    }


def flat(trees, device, size):
    vector = np.concatenate([trees[name][device].reshape(-1) for name in sorted(SHAPES)])
    return np.concatenate([vector, np.zeros(size - vector.size, np.float32)])


def is_close(found, expected):
    """Values halfway between two multiples are rounded up or down by the last bit of a scale: there are few."""
    return (np.abs(found - expected) > 5e-6).mean() < 1e-3


@pytest.mark.parametrize("bits", [8, 4])
def test_both_stages_and_their_residuals_are_those_of_the_reference(bits):
    summed = Summed(bits)
    size = len(summed.fresh.sent)
    assert size % (DEVICES * BLOCK) == 0
    sent, share = np.zeros((DEVICES, size), np.float32), np.zeros((DEVICES, size // DEVICES), np.float32)
    residuals = None
    for step in range(STEPS):
        trees = vectors_of_devices(step)
        totals, residuals = summed(trees, residuals)
        rounded = np.zeros_like(sent)
        for device in range(DEVICES):
            own = flat(trees, device, size) + sent[device]
            rounded[device] = reference_rounded(own, bits)
            sent[device] = own - rounded[device]
        own = rounded.sum(axis=0, dtype=np.float32).reshape(DEVICES, -1) + share
        total = np.stack([reference_rounded(part, bits) for part in own])
        share = own - total
        for device in range(DEVICES):
            found = flat(totals, device, size)
            assert is_close(found[:LENGTH], total.reshape(-1)[:LENGTH])
            np.testing.assert_array_equal(found, flat(totals, 0, size))
        assert is_close(residuals.sent, sent) and is_close(residuals.summed, share)
        sent, share = map(np.array, residuals)
    assert np.abs(sent).max() > 0 and np.abs(share).max() > 0


@pytest.mark.parametrize("bits", [8, 4])
def test_nothing_is_lost_only_delayed(bits):
    """Sums so far and what the residuals hold are the sums of the exact vectors, in float64."""
    summed = Summed(bits)
    size, residuals = len(summed.fresh.sent), None
    exact, received = np.zeros(size), np.zeros(size)
    for step in range(STEPS):
        trees = vectors_of_devices(step)
        totals, residuals = summed(trees, residuals)
        exact += sum(flat(trees, device, size).astype(np.float64) for device in range(DEVICES))
        received += flat(totals, 0, size)
    held = residuals.sent.astype(np.float64).sum(axis=0) + residuals.summed.reshape(-1)
    np.testing.assert_allclose(received + held, exact, atol=1e-5)
    assert np.abs(received - exact).max() > 1e-3


def test_one_device_sends_and_rounds_nothing():
    tree, total = {"a": jnp.full((3,), 0.1)}, QuantisedSum(4, 1)
    assert total(tree, total.residuals(tree))[0] is tree
    assert total.bytes_on_wire(tree) == 0


@pytest.mark.parametrize("num_devices", [2, 4, 8])
@pytest.mark.parametrize("bits", [8, 4])
def test_bytes_are_those_of_the_two_messages(bits, num_devices):
    summed = Summed(bits, num_devices)
    text = summed.program.call.as_text()
    sent = 0.0
    for kind in ("all-to-all", "all-gather"):
        [line] = [line for line in text.splitlines() if f" {kind}(" in line]
        # XLA:CPU makes a tuple of an all-to-all, one array a receiver.
        shapes = re.findall(r"u8\[([\d,]+)\]", line.split(f" {kind}(")[0])
        sent += (
            sum(np.prod([int(size) for size in shape.split(",")]) for shape in shapes) * (num_devices - 1) / num_devices
        )
    assert summed.sum.bytes_on_wire({name: np.zeros(shape) for name, shape in SHAPES.items()}) == sent
    assert "all-reduce" not in text
