"""Signals that real processes get, sent to this one."""

import os
import signal

import pytest

from jaxdp.data.prefetch import QueueState
from jaxdp.hooks.preemption import Preemption, exit_code
from jaxdp.trainer import train


@pytest.fixture
def said():
    return []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_becomes_a_request_and_a_second_one_an_exit(number, code, said):
    before = signal.getsignal(number)
    with Preemption(said.append) as preemption:
        assert preemption.request() == 0
        os.kill(os.getpid(), number)
        assert preemption.request() == number
        assert said == [f"{number.name}: saving after this step; once more to stop at once"]
        with pytest.raises(SystemExit) as stop:
            os.kill(os.getpid(), number)
        assert stop.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert exit_code(number) == code


def test_without_a_signal_the_exit_code_is_0():
    assert exit_code(0) == 0


def test_the_first_signal_decides_and_the_loop_stops_with_it(said):
    dispatched = []

    def program(state, batch, signals):
        dispatched.append(signals)
        if len(dispatched) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return state + 1, {"request": signals}

    with Preemption(said.append) as preemption:
        outcome = train(
            program, 0, ((0, 0) for _ in range(100)), lambda request, _: request, [preemption],
            first_step=0, total_steps=100, queue=lambda: QueueState(2, 2, 0.0),
        )  # fmt: skip
    assert dispatched == [0, 0, signal.SIGTERM, signal.SIGTERM]
    assert (outcome.step, exit_code(outcome.request)) == (4, 75)


def test_handlers_are_restored_after_an_error(said):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), Preemption(said.append):
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before
