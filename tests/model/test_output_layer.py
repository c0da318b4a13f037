"""Chunked cross-entropy against NumPy in float64, and the memory, FLOPs and arrays of its compiled programs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdp.model.output_layer import MIN_AUTO_TOKENS, OutputLayer, evaluation_sums, num_chunks, objective_sum

pytestmark = pytest.mark.optimized

BATCH, LENGTH, EMBED_DIM, VOCAB_SIZE = 2, 11, 5, 131
"""22 tokens, which 5 chunks do not divide; a vocabulary that chunks pad on a GPU."""


def random_inputs(batch=BATCH, length=LENGTH, vocab_size=VOCAB_SIZE, embed_dim=EMBED_DIM):
    random = np.random.default_rng(0)
    return {
        "hidden": random.normal(0, 1, (batch, length, embed_dim)).astype(np.float32),
        "table": random.normal(0, 1, (vocab_size, embed_dim)).astype(np.float32),
        "bias": random.normal(0, 1, vocab_size).astype(np.float32),
        "targets": random.integers(0, vocab_size, (batch, length), dtype=np.int32),
        "weights": random.choice([0.0, 1.0, 0.5], (batch, length)).astype(np.float32),
    }


def reference(hidden, table, bias, targets, weights, label_smoothing, z_loss, softcap=0.0):
    """(objective, nats, correct predictions, gradients of the objective) by the definitions."""
    hidden, weights, targets = (
        hidden.reshape(-1, EMBED_DIM).astype(np.float64),
        weights.reshape(-1),
        targets.reshape(-1),
    )
    logits = hidden @ table.T.astype(np.float64) + (0 if bias is None else bias)
    steepness = np.ones(logits.shape)
    if softcap:
        logits = softcap * np.tanh(logits / softcap)
        steepness = 1 - (logits / softcap) ** 2
    log_z = np.log(np.exp(logits).sum(-1))
    wanted = np.full(logits.shape, label_smoothing / VOCAB_SIZE)
    wanted[np.arange(len(targets)), targets] += 1 - label_smoothing
    of_tokens = log_z - (wanted * logits).sum(-1) + z_loss * log_z**2
    slopes = np.exp(logits - log_z[:, None]) * (1 + 2 * z_loss * log_z[:, None]) - wanted
    slopes = weights[:, None] * slopes * steepness
    gradients = {"hidden": slopes @ table, "table": slopes.T @ hidden, "bias": slopes.sum(0), "weights": of_tokens}
    nats = weights @ (log_z - logits[np.arange(len(targets)), targets])
    return weights @ of_tokens, nats, weights @ (logits.argmax(-1) == targets), gradients


def objective(floats, targets, *, chunk, platform="cpu", softcap=0.0, label_smoothing=0.0, z_loss=0.0):
    layer = OutputLayer(floats["hidden"], floats["table"], floats.get("bias"), chunk, platform, softcap)
    return objective_sum(layer, targets, floats["weights"], label_smoothing=label_smoothing, z_loss=z_loss)


@pytest.mark.parametrize(("chunk", "platform"), [(5, "gpu"), (5, "cpu"), (4, "gpu"), (0, "gpu")])
@pytest.mark.parametrize(
    ("has_bias", "options"),
    [
        (False, {"label_smoothing": 0.0, "z_loss": 0.0}),
        (True, {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 1.5}),
    ],
    ids=["plain", "with_options"],
)
def test_sums_and_gradients_equal_the_definitions(chunk, platform, has_bias, options):
    inputs = random_inputs()
    if not has_bias:
        del inputs["bias"]
    targets = inputs.pop("targets")
    compute = jax.jit(jax.value_and_grad(functools.partial(objective, chunk=chunk, platform=platform, **options)))
    found, found_gradients = compute(inputs, targets)
    expected, nats, correct, gradients = reference(targets=targets, **{"bias": None} | inputs | options)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    for name, gradient in found_gradients.items():
        assert gradient.shape == inputs[name].shape and gradient.dtype == jnp.float32
        np.testing.assert_allclose(
            gradient, gradients[name].reshape(gradient.shape), rtol=1e-5, atol=1e-6, err_msg=name
        )
    softcap = options.get("softcap", 0.0)
    layer = OutputLayer(inputs["hidden"], inputs["table"], inputs.get("bias"), chunk, platform, softcap)
    measured = jax.jit(evaluation_sums)(layer, targets, inputs["weights"])
    np.testing.assert_allclose(measured, [nats, correct], rtol=1e-6)


def test_gradients_are_multiplied_by_the_cotangent():
    inputs = random_inputs()
    targets = inputs.pop("targets")
    once, thrice = (
        jax.jit(jax.grad(lambda floats, factor=factor: factor * objective(floats, targets, chunk=5)))(inputs)
        for factor in (1.0, 3.0)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(3 * a, b, rtol=1e-6), once, thrice)


def test_the_gradient_of_a_bfloat16_model_is_summed_over_chunks_in_float32():
    """It is as near to the exact gradient of the rounded operands as that of all logits at once."""
    inputs = random_inputs()
    del inputs["bias"]
    targets = inputs.pop("targets")
    inputs |= {name: np.asarray(jnp.asarray(inputs[name], jnp.bfloat16), np.float32) for name in ("hidden", "table")}
    exact = reference(**inputs, targets=targets, bias=None, label_smoothing=0.0, z_loss=0.0)[-1]
    floats = inputs | {"hidden": jnp.asarray(inputs["hidden"], jnp.bfloat16)}
    distances = {}
    for chunk in (5, 0):
        gradients = jax.jit(jax.grad(functools.partial(objective, chunk=chunk)))(floats, targets)
        assert (gradients["hidden"].dtype, gradients["table"].dtype) == (jnp.bfloat16, jnp.float32)
        np.testing.assert_allclose(gradients["hidden"].reshape(-1, EMBED_DIM), exact["hidden"], rtol=0.02, atol=0.02)
        distances[chunk] = np.abs(gradients["table"] - exact["table"]).max()
    assert distances[5] < 1.01 * distances[0] < 0.02


@pytest.mark.parametrize(
    ("num_tokens", "vocab_size", "chunk", "expected"),
    [
        (22, 131, 0, 1),
        (22, 131, 22, 1),
        (22, 131, 21, 2),
        (21, 131, 4, 7),  # 6 chunks are enough, 7 have equal sizes
        (22, 131, 5, 5),  # no number up to 9 divides it
        (4096, 65, None, 1),
        (8192, 50257, None, 8),  # GPT-2: chunks of 1024 tokens
        (16 * MIN_AUTO_TOKENS, 128256, None, 16),
    ],
)
def test_number_of_chunks(num_tokens, vocab_size, chunk, expected):
    assert num_chunks(num_tokens, vocab_size, chunk) == expected


TOKENS, WIDE_VOCAB = 256, 1023


@functools.cache
def compiled(function, chunk):
    """A program for TOKENS tokens: "gradient", "objective" without its gradient, or "evaluation"."""
    inputs = random_inputs(1, TOKENS, WIDE_VOCAB, 64)
    targets, weights = inputs.pop("targets"), inputs["weights"]
    of_objective = functools.partial(objective, chunk=chunk)
    if function == "evaluation":
        layer = OutputLayer(inputs["hidden"], inputs["table"], inputs["bias"], chunk)
        return jax.jit(evaluation_sums).lower(layer, targets, weights).compile()
    return (
        jax.jit(jax.value_and_grad(of_objective) if function == "gradient" else of_objective)
        .lower(inputs, targets)
        .compile()
    )


def flops(function, num_chunks):
    """FLOPs of a chunked program. XLA counts the body of a loop once: two numbers of chunks tell them apart."""
    counts = {
        number: compiled(function, TOKENS // number).cost_analysis()["flops"] for number in (num_chunks, 2 * num_chunks)
    }
    of_chunk = 2 * (counts[num_chunks] - counts[2 * num_chunks])
    return counts[num_chunks] + (num_chunks - 1) * of_chunk


@pytest.mark.parametrize("function", ["gradient", "objective", "evaluation"])
def test_no_array_has_the_logits_of_all_tokens(function):
    logits = re.compile(rf"f32\[(1,)?{TOKENS},({WIDE_VOCAB}|1024)\]")
    assert logits.search(compiled(function, 0).as_text())
    assert not logits.search(compiled(function, 32).as_text())


def test_temporaries_shrink_with_the_chunk():
    whole, quarter, eighth = (compiled("gradient", chunk).memory_analysis().temp_size_in_bytes for chunk in (0, 64, 32))
    logits = 4 * TOKENS * WIDE_VOCAB
    assert logits < whole
    assert quarter < whole - logits / 2
    assert eighth < quarter


def test_nothing_is_computed_twice_and_no_gradient_that_is_not_asked_for():
    product = 2 * TOKENS * WIDE_VOCAB * 64
    whole = compiled("gradient", 0).cost_analysis()["flops"]
    assert 3 * product < whole
    assert flops("gradient", 4) == pytest.approx(whole, rel=0.01)
    assert product < flops("objective", 4) < 1.2 * product
    assert product < flops("evaluation", 4) < 1.2 * product
