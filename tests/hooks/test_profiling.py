"""Steps of a profiler trace."""

import jax
import numpy as np
import pytest

from jaxdp.data.prefetch import QueueState
from jaxdp.hooks.profiling import Profiling
from jaxdp.trainer import train


@pytest.fixture
def events(monkeypatch):
    """Calls of the profiler and dispatched steps; tracing itself is slow and tried once below."""
    made = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda directory: made.append(f"start {directory}"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: made.append("stop"))
    return made


def run(hook, events, *, first_step=0, total_steps=6):
    def program(state, batch, control_word):
        events.append(state + 1)
        return state + 1, {"request": 0}

    train(
        program, first_step, ((0, 0) for _ in range(100)), lambda request, _: 0, [hook],
        first_step=first_step, total_steps=total_steps, queue=lambda: QueueState(2, 2, 0.0),
    )  # fmt: skip


def test_a_window_of_steps_is_traced(events):
    said = []
    run(Profiling("there", 2, 3, said.append), events)
    assert events == [1, 2, "start there", 3, 4, 5, "stop", 6]
    assert said == ["profile written to there (tensorboard --logdir, or ui.perfetto.dev)"]


def test_a_run_that_ends_inside_the_window_ends_the_trace(events):
    run(Profiling("there", 5, 10, lambda text: None), events)
    assert events == [1, 2, 3, 4, 5, "start there", 6, "stop"]


def test_a_run_that_begins_after_the_window_traces_nothing(events):
    said = []
    run(Profiling("there", 2, 2, said.append), events, first_step=3)
    assert events == [4, 5, 6]
    assert said == []


def test_a_trace_is_written(tmp_path):
    hook = Profiling(tmp_path / "profile", 1, 1, lambda text: None)
    hook.on_state(1, np.zeros(1))
    jax.block_until_ready(jax.numpy.ones(3) + 1)
    hook.on_state(2, np.zeros(1))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
