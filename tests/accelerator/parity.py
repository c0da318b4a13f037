"""Numerical parity: fused bfloat16 attention, and the loss and gradient of a small GPT, against float32."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.model.attention_backends.backend import Attend
from jaxdp.model.attention_backends.cudnn import cudnn_attention
from jaxdp.model.attention_backends.plain import reference_attention
from jaxdp.model.attention_backends.registry import FUSED
from jaxdp.model.attention_backends.splash import SPLASH
from jaxdp.model.masks import AttentionMask, make_mask
from jaxdp.parallel.spmd import fixed_settings
from jaxdp.tasks.model_functions import task_loss
from jaxdp.typing import PyTree

from .context import Context
from .workload import SIZES, gpt_setup

MAX_ERROR = 2e-2
"""Relative error above which a row says so: bfloat16 operands give between 1e-3 and 1e-2."""


def measure(context: Context) -> None:
    """Compares attention case by case, then the whole model."""
    shape = SIZES[context.size].parity_shape
    implementation, fused = _kernel(jax.devices()[0].platform)
    for name, case in attention_cases(shape).items():
        if case.softcap and implementation != SPLASH.name:
            context.report(f"attention, {name}", "not supported", f"{implementation} has no soft cap")
            continue
        context.progress(f"comparing attention, {name}")
        try:
            errors = attention_errors(shape, case, fused)
        except Exception as error:  # a kernel may refuse one case, which says nothing about the others
            context.report(f"attention, {name}", "failed", f"{type(error).__name__}: {str(error)[:300]}")
            continue
        _report_errors(context, f"attention, {name}", errors, implementation)
    _compare_model(context)


def _kernel(platform: str) -> tuple[str, Attend]:
    """Returns the fused kernel of a platform; elsewhere that of cuDNN as XLA computes it, so that this runs everywhere."""
    for backend in FUSED:
        if backend.platform == platform:
            return backend.name, backend.attend
    return "xla", functools.partial(cudnn_attention, implementation="xla")


class Case(NamedTuple):
    """One kind of attention.

    Attributes:
        mask: Attention mask, in which each query may attend to at least one key.
        groups: Query heads of each key/value head.
        num_keys: Length of the source of cross-attention; None: self-attention.
        softcap: Bound of the scores; 0: none.
    """

    mask: AttentionMask
    groups: int = 1
    num_keys: int | None = None
    softcap: float = 0.0


def attention_cases(shape: tuple[int, int, int, int]) -> dict[str, Case]:
    """Returns every case by name."""
    batch, length, _, _ = shape
    random = np.random.default_rng(1)
    sizes = jnp.asarray(random.integers(length // 2, length + 1, batch), jnp.int32)
    padding = jnp.arange(length)[None, :] < sizes[:, None]
    segments = jnp.asarray(np.sort(random.integers(0, 4, (batch, length)), axis=1), jnp.int32)
    source = 3 * length // 4
    source_padding = jnp.arange(source)[None, :] < jnp.minimum(sizes, source)[:, None] - 1
    wide = make_mask(causal=False, window=3 * length // 4, attention_mask=padding)
    return {
        "causal": Case(make_mask(causal=True)),
        "bidirectional": Case(make_mask(causal=False)),
        "padding": Case(make_mask(causal=False, attention_mask=padding)),
        "causal, packed segments": Case(make_mask(causal=True, segment_ids=segments)),
        "causal, grouped heads": Case(make_mask(causal=True), groups=4),
        "causal, window": Case(make_mask(causal=True, window=length // 4)),
        "causal, window, packed segments": Case(make_mask(causal=True, window=length // 4, segment_ids=segments)),
        "bidirectional, window, padding": Case(wide),
        "cross-attention, padding": Case(make_mask(causal=False, attention_mask=source_padding), num_keys=source),
        "cross-attention, grouped heads": Case(make_mask(causal=False), groups=4, num_keys=source),
        "causal, soft cap": Case(make_mask(causal=True), softcap=2.0),
    }


def attention_errors(shape: tuple[int, int, int, int], case: Case, kernel: Attend) -> dict[str, float]:
    """Returns the relative errors of output and gradients, fused and plain, both in bfloat16, against plain float32.

    Returns:
        ||found - expected|| / ||expected|| by name, such as "fused output" and "plain gradient" (of queries, keys and
        values together).
    """
    batch, length, heads, width = shape
    queries, keys = (batch, heads, length, width), (batch, heads // case.groups, case.num_keys or length, width)
    *inputs, cotangent = (
        jax.random.normal(jax.random.key(index), shape, jnp.bfloat16)
        for index, shape in enumerate((queries, keys, keys, queries))
    )

    def plain(query, key, value):
        return reference_attention(query, key, value, case.mask, platform=jax.default_backend(), softcap=case.softcap)

    def fused(query, key, value):
        return kernel(query, key, value, case.mask, softcap=case.softcap)

    with jax.default_matmul_precision("highest"):
        expected = _output_and_gradient(plain, [part.astype(jnp.float32) for part in inputs], cotangent)
    errors = {}
    for name, function in (("fused", fused), ("plain", plain)):
        output, gradient = _output_and_gradient(function, inputs, cotangent)
        errors[f"{name} output"] = relative_error(output, expected[0])
        errors[f"{name} gradient"] = relative_error(gradient, expected[1])
    return errors


def _output_and_gradient(function: Callable, inputs: list[jax.Array], cotangent: jax.Array) -> tuple[PyTree, PyTree]:
    """Returns the outputs, and the gradients of their product with `cotangent`."""

    @jax.jit
    def both(*inputs):
        output, pullback = jax.vjp(function, *inputs)
        return output, pullback(cotangent.astype(output.dtype))

    return both(*inputs)


def relative_error(found: PyTree, expected: PyTree) -> float:
    """Returns ||found - expected|| / ||expected|| over all leaves, in float64; NaN if any value is."""
    pairs = [
        (np.asarray(one.astype(jnp.float32), np.float64), np.asarray(other, np.float64))
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    ]
    difference = sum(np.sum((one - other) ** 2) for one, other in pairs)
    return float(np.sqrt(difference / sum(np.sum(other**2) for _, other in pairs)))


def _report_errors(context: Context, name: str, errors: dict[str, float], implementation: str) -> None:
    fused = [error for part, error in errors.items() if part.startswith("fused")]
    passed = all(error < MAX_ERROR for error in fused)  # NaN does not pass
    context.report(
        name,
        f"{'within' if passed else 'NOT within'} {MAX_ERROR:.0e} ({implementation})",
        ", ".join(f"{part} {error:.1e}" for part, error in errors.items()),
        errors=errors, passed=passed, implementation=implementation,
    )  # fmt: skip


def _compare_model(context: Context) -> None:
    """Compares loss and gradient of a GPT in bfloat16 with automatic attention, and in float32 with plain attention."""
    keys = (f"model.num_layers={SIZES[context.size].repeat_layers}",)
    results, rows = [], 2
    for precision, overrides in (
        ("highest", ("model.dtype=float32", "model.attention=plain")),
        ("default", ("model.dtype=bfloat16",)),
    ):
        context.progress(f"comparing the model, {overrides[0]}")
        setup = gpt_setup(context, "124M", rows, *keys, *overrides)
        batch = {name: jnp.asarray(array) for name, array in next(setup.loader.batches(0)).items()}
        loss = task_loss(setup.task, setup.eval_model, train=True)

        def mean_loss(params: PyTree, batch: dict[str, Any], loss=loss) -> jax.Array:
            sums = loss(params, batch, None)
            return sums.loss / sums.weight

        with fixed_settings(), jax.default_matmul_precision(precision):
            results.append(
                jax.jit(jax.value_and_grad(mean_loss))(setup.strategy.eval_params(setup.fresh_state()), batch)
            )
    (expected, expected_gradient), (found, gradient) = results
    norms = [
        float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree))))
        for tree in (gradient, expected_gradient)
    ]
    errors = {
        "loss": abs(float(found) / float(expected) - 1),
        "gradient norm": abs(norms[0] / norms[1] - 1),
        "gradient": relative_error(gradient, expected_gradient),
    }
    context.report(
        "GPT in bfloat16 against float32",
        f"loss {float(found):.5f} and {float(expected):.5f}",
        ", ".join(f"{name} differs by {error:.1e}" for name, error in errors.items()) + " (relative)",
        errors=errors, gradient_norms=norms,
    )  # fmt: skip
