"""Learning rates against formulas written out in float64."""

import math

import jax
import numpy as np
import pytest

from jaxdp.errors import UserError
from jaxdp.optim import OptimizerConfig, make_schedule
from jaxdp.optim.schedules import BUILT_IN as SCHEDULES

VALUES = {
    "name": "adamw",
    "learning_rate": 3e-3,
    "schedule": "cosine",
    "warmup_steps": 10,
    "end_learning_rate": 3e-4,
    "weight_decay": 0.1,
    "b1": 0.9,
    "b2": 0.95,
    "eps": 1e-8,
    "momentum": 0.9,
    "clip_norm": 1.0,
    "total_steps": 200,
}


COUNTS = np.append(np.arange(220), 10_000).astype(np.int32)  # one shape, so that nothing compiles twice


def rates_of(**overrides) -> jax.Array:
    return make_schedule(OptimizerConfig(**VALUES | overrides))(COUNTS)


def expected_rate(schedule: str, n: int, warmup: int, total: int, peak: float, end: float) -> float:
    if n < warmup:
        return peak * (n + 1) / (warmup + 1)
    decayed = min((n - warmup) / (total - warmup), 1.0)
    if schedule == "constant":
        return peak
    if schedule == "linear":
        return peak + (end - peak) * decayed
    if schedule == "cosine":
        return end + 0.5 * (1 + math.cos(math.pi * decayed)) * (peak - end)
    if schedule == "rsqrt":
        return peak * math.sqrt(max(warmup, 1) / max(n, 1))
    start = max(total - total // 5, warmup)
    return peak + (end - peak) * min(max((n - start) / (total - start), 0.0), 1.0)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("warmup", [0, 1, 10, 170])
def test_schedule_equals_its_formula(schedule, warmup):
    rates = rates_of(schedule=schedule, warmup_steps=warmup)
    expected = [expected_rate(schedule, int(n), warmup, 200, 3e-3, 3e-4) for n in COUNTS]
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("schedule", "last"), [("linear", 0.0), ("cosine", 0.0), ("wsd", 0.0), ("constant", 3e-3)])
def test_schedule_ends_at_total_steps(schedule, last):
    rates = rates_of(schedule=schedule, end_learning_rate=0.0)
    np.testing.assert_allclose(rates[np.array([0, 10])], [3e-3 / 11, 3e-3], rtol=1e-6)
    assert rates[199] > 0
    np.testing.assert_allclose(rates[200:], last, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_a_run_shorter_than_its_warmup_keeps_rising(schedule):
    rates = rates_of(schedule=schedule, total_steps=5)
    np.testing.assert_allclose(rates[:10], 3e-3 * np.arange(1, 11) / 11, rtol=1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "adamv"),
        ("schedule", "cosinus"),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("warmup_steps", -1),
        ("end_learning_rate", -1e-4),
        ("weight_decay", float("inf")),
        ("b1", 1.0),
        ("b2", -0.1),
        ("momentum", 1.5),
        ("eps", 0.0),
        ("clip_norm", -1.0),
    ],
)
def test_a_bad_value_is_refused_by_its_key(key, value):
    with pytest.raises(UserError, match=rf"^optim\.{key} is .*; expected "):
        OptimizerConfig(**VALUES | {key: value})


def test_a_run_of_no_steps_is_refused():
    with pytest.raises(UserError, match=r"^total_steps is 0"):
        OptimizerConfig(**VALUES | {"total_steps": 0})
