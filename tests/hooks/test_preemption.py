"""Signals that real processes get, sent to this one."""

import os
import signal
import sys
import threading
import time

import pytest

from jaxdp.data.prefetch import QueueState
from jaxdp.hooks import preemption as preemption_module
from jaxdp.hooks.preemption import Preemption, Stopped, exit_code
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.trainer import StopTraining, train


@pytest.fixture
def said():
    return []


def wait_for(condition):
    """The thread that answers signals takes a moment."""
    end = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_a_hang_up_is_a_request_to_save_however_often_it_comes(said):
    """The kernel, the shell and the service manager may each send one; as a request its number, 1, means only to save."""
    with Preemption(said.append) as preemption:
        preemption.hold(ControlPlane.single_process())
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        assert preemption.request() == signal.SIGTERM
        wait_for(lambda: said)
        os.kill(os.getpid(), signal.SIGTERM)  # the first that somebody meant
        wait_for(lambda: len(said) == 2)
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: len(said) == 3)
    assert said == [
        "SIGHUP: saving after this step; once more to stop at once",
        "SIGTERM: saving after this step; once more to stop at once",
        "SIGTERM again: stopping at once",
    ]
    assert exit_code(preemption.request()) == 75


def test_a_hang_up_that_is_ignored_stays_ignored(said):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Preemption(said.append) as preemption:
            os.kill(os.getpid(), signal.SIGHUP)
            assert preemption.request() == 0 and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_becomes_a_request_and_a_second_one_an_exit(number, code, said):
    before = signal.getsignal(number)
    with Preemption(said.append) as preemption:
        preemption.hold(ControlPlane.single_process())
        assert preemption.request() == 0
        os.kill(os.getpid(), number)
        assert preemption.request() == number
        wait_for(lambda: said == [f"{number.name}: saving after this step; once more to stop at once"])
        with pytest.raises(SystemExit) as stop:
            os.kill(os.getpid(), number)
        assert stop.value.code == 128 + number
        wait_for(lambda: said[1:] == [f"{number.name} again: stopping at once"])
    assert signal.getsignal(number) is before
    assert exit_code(number) == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 75)])
def test_while_there_is_nothing_to_save_the_first_signal_stops_the_run(number, code, said):
    with pytest.raises(Stopped, match=f"{number.name} came before its first step") as stop, Preemption(said.append):
        os.kill(os.getpid(), number)
        wait_for(lambda: said)
        raise AssertionError("the signal was not noticed")
    assert (stop.value.number, stop.value.exit_code) == (number, code)
    assert said == [f"{number.name}: nothing is to be saved yet; stopping"]


def test_a_signal_in_a_destructor_stops_the_run_without_a_traceback(said, monkeypatch):
    """An exception is swallowed there, and printed."""

    class Destroyed:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    class Faulty:
        def __del__(self):
            raise ValueError

    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: shown.append(unraisable.exc_type))
    before = sys.unraisablehook
    with Preemption(said.append) as preemption:
        Destroyed()
        Faulty()
        with pytest.raises(Stopped):
            preemption.hold(ControlPlane.single_process())
    assert shown == [ValueError]
    assert sys.unraisablehook is before


def test_holding_again_is_nothing_new(said):
    with Preemption(said.append) as preemption:
        preemption.hold(ControlPlane.single_process())
        os.kill(os.getpid(), signal.SIGTERM)
        preemption.hold(ControlPlane.single_process())
        assert preemption.request() == signal.SIGTERM


@pytest.fixture
def ended():
    return []


def send(preemption, number):
    """As the C handler does; the main thread's own handler does not come to run."""
    preemption._outgoing.send(bytes([number]))


def test_where_the_main_thread_is_held_up_the_process_is_ended(said, ended, monkeypatch):
    monkeypatch.setattr(preemption_module, "UNWIND_SECS", 0.05)
    with Preemption(said.append, end_process=ended.append) as preemption:
        send(preemption, signal.SIGTERM)
        wait_for(lambda: ended)
    assert ended == [75]
    assert said == ["SIGTERM: nothing is to be saved yet; stopping", "SIGTERM: stopped"]


def test_a_report_that_cannot_be_made_holds_nothing_up(ended, monkeypatch):
    """The main thread, interrupted between taking a lock of logging and releasing it, leaves it locked for every other thread."""
    monkeypatch.setattr(preemption_module, "UNWIND_SECS", 0.05)
    monkeypatch.setattr(preemption_module, "MAX_LOG_SECS", 0.05)
    lock = threading.Lock()
    lock.acquire()
    with Preemption(lambda sentence: lock.acquire(), end_process=ended.append) as preemption:
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
        wait_for(lambda: ended)
    assert ended == [75] and not preemption._thread.is_alive()
    lock.release()


def test_twice_ends_the_process_even_in_a_collective_that_hangs(said, ended, monkeypatch):
    monkeypatch.setattr(preemption_module, "UNWIND_SECS", 0.05)
    told, control_plane = [], ControlPlane.single_process()
    control_plane.leave = lambda *what: told.append(what)
    with Preemption(said.append, end_process=ended.append) as preemption:
        preemption.hold(control_plane)
        send(preemption, signal.SIGINT)
        wait_for(lambda: said)
        assert ended == []
        send(preemption, signal.SIGINT)
        wait_for(lambda: ended)
    assert ended == [130]  # 128 + SIGINT
    assert told == [(130, "SIGINT again: stopped")]


def test_the_grace_is_respected(said, ended):
    with Preemption(said.append, 0.7, end_process=ended.append) as preemption:
        preemption.hold(ControlPlane.single_process())
        assert preemption.remaining_secs() == float("inf")
        start = time.monotonic()
        send(preemption, signal.SIGTERM)
        wait_for(lambda: said)
        wait_for(lambda: preemption.remaining_secs() < 0.3)
        wait_for(lambda: ended)
        assert time.monotonic() - start >= 0.2  # half a second is kept for leaving
    assert ended == [75]
    assert said == [
        "SIGTERM: saving after this step, within 0.7 s (checkpoint.grace_secs); once more to stop at once",
        "SIGTERM: step and save take longer than checkpoint.grace_secs=0.7 allows; leaving without them, "
        "the same command continues from the checkpoint before",
    ]


def test_done_in_time_nothing_is_ended(said, ended):
    with Preemption(said.append, 0.6, end_process=ended.append) as preemption:
        preemption.hold(ControlPlane.single_process())
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: said)
    time.sleep(0.2)
    assert ended == [] and len(said) == 1


def test_signals_of_others_are_theirs(said, ended):
    received = []
    before = signal.signal(signal.SIGUSR1, lambda *_: received.append(1))
    try:
        with Preemption(said.append, end_process=ended.append) as preemption:
            os.kill(os.getpid(), signal.SIGUSR1)
            preemption.hold(ControlPlane.single_process())
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for(lambda: said)
        assert received == [1] and preemption.request() == signal.SIGTERM
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_without_a_signal_the_exit_code_is_0():
    assert exit_code(0) == 0


def test_the_first_signal_decides_and_the_loop_stops_with_it(said):
    dispatched = []

    def program(state, batch, control_word):
        dispatched.append(control_word)
        if len(dispatched) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return state + 1, {"request": control_word}

    with Preemption(said.append) as preemption:
        preemption.hold(ControlPlane.single_process())
        outcome = train(
            program, 0, ((0, 0) for _ in range(100)), lambda request, _: request, [preemption],
            first_step=0, total_steps=100, queue=lambda: QueueState(2, 2, 0.0),
        )  # fmt: skip
    assert dispatched == [0, 0, signal.SIGTERM, signal.SIGTERM]
    assert (outcome.step, exit_code(outcome.request)) == (4, 75)


def test_handlers_and_thread_go_after_an_error(said):
    before, threads = signal.getsignal(signal.SIGTERM), threading.active_count()
    with pytest.raises(RuntimeError), Preemption(said.append):
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


def test_a_handler_that_is_not_pythons_becomes_the_default(said, monkeypatch):
    """`signal.signal` returns None for it, and takes no None."""
    before, install = signal.getsignal(signal.SIGTERM), signal.signal

    def as_of_c_code(number, handler):
        previous = install(number, handler)
        return None if number == signal.SIGTERM else previous

    try:
        with monkeypatch.context() as patched:
            patched.setattr(signal, "signal", as_of_c_code)
            with Preemption(said.append):
                pass
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_before_the_first_step_stops_all_processes(said):
    """Process 1 got it; the others hear of it when the loop is about to begin."""
    with Preemption(said.append) as preemption:
        control_plane = ControlPlane.single_process()
        preemption.hold(control_plane)
        control_plane.allgather = lambda request: [request, signal.SIGTERM]
        with pytest.raises(StopTraining) as stop:
            preemption.on_start(0, None)
        preemption.on_start(0, None)  # the loop's second start, after going back
    assert stop.value.request == signal.SIGTERM
