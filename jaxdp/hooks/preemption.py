"""SIGTERM, SIGHUP and Ctrl-C: finish the step, save, leave.

The signal only sets a number; the control word of the step carries it to all
processes, so that all stop after the same step. While there is nothing to save
yet, the first signal stops the run at once; a second one always does.

Python runs a handler between two bytecodes of the main thread, which are
minutes apart while it compiles or waits for devices. So a thread hears of
signals too: it answers the person who sent one, and ends the process where the
main thread does not come to it in time.
"""

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxdp.interrupts import EXIT_CODES, UNWIND_SECS, Stopped, handled_signals
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.state import TrainState
from jaxdp.trainer import Hook, Request, StopTraining

MARGIN_SHARE, MIN_MARGIN_SECS = 0.05, 0.5
"""Share of the grace that is kept for leaving, and its least."""


MAX_LOG_SECS = 2.0
"""Longest time that a report holds up the end of the process."""


class Preemption(Hook):
    """Turns the first SIGINT, SIGTERM or SIGHUP into a request to stop; a context manager.

    SIGHUP, which a terminal sends when it closes, is treated as SIGTERM; where it is ignored, as under
    `nohup`, it stays ignored.
    """

    def __init__(
        self,
        log: Callable[[str], None],
        grace_secs: float = 0.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        end_process: Callable[[int], None] = os._exit,
    ):
        """
        Args:
            log: what to tell the person who watches.
            grace_secs: time between the signal and the kill that follows it; 0: unknown.
            clock: seconds; replaced in tests.
            end_process: ends the process with an exit code, whatever the main thread
                is doing; replaced in tests.
        """
        self._log = log
        self._grace_secs = grace_secs
        self._clock = clock
        self._end_process = end_process
        self._control_plane: ControlPlane | None = None
        self._has_started = False
        self._received = Request.NONE
        self._num_handled = 0
        self._deadline = math.inf
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Preemption":
        self._incoming, self._outgoing = socket.socketpair()
        self._outgoing.setblocking(False)
        self._thread = threading.Thread(target=self._listen, name="jaxdp-signals", daemon=True)
        self._thread.start()
        self._previous_descriptor = signal.set_wakeup_fd(self._outgoing.fileno(), warn_on_full_buffer=False)
        self._previous = {number: signal.signal(number, self._handle) for number in handled_signals()}
        self._show_unraisable, sys.unraisablehook = sys.unraisablehook, self._show_unless_stopped
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            # None: installed by C code, which Python can neither name nor put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._previous_descriptor)
        if sys.unraisablehook == self._show_unless_stopped:  # nobody has put another one before it
            sys.unraisablehook = self._show_unraisable
        self._outgoing.send(b"\0")  # no signal: ends the thread
        self._thread.join()
        self._outgoing.close()
        self._incoming.close()

    def hold(self, control_plane: ControlPlane) -> None:
        """From now on the first signal only asks: there is a state to save, or there are others to agree with.

        Raises:
            Stopped: a signal has come before.
        """
        if self._received and not self._control_plane:
            raise Stopped(self._received)
        self._control_plane = control_plane

    def on_start(self, step: int, state: TrainState) -> None:
        """Stops before the first step where a signal came while others were depended on.

        Not where the loop starts once more, after going back: what was learned by
        then is saved with the next step.
        """
        request = Request.NONE if self._has_started else max(self._control_plane.allgather(self._received))
        self._has_started = True
        if request:
            raise StopTraining(request)

    def request(self) -> int:
        return self._received

    def remaining_secs(self) -> float:
        """Until the process should have left; infinite while no signal came or no grace is known."""
        return self._deadline - self._clock()

    def _handle(self, number: int, _frame) -> None:
        """In the main thread."""
        if number == signal.SIGHUP and self._received:
            return  # the kernel, the shell and the service manager may each send one
        self._received = self._received or _request(number)
        self._num_handled += number != signal.SIGHUP
        if self._num_handled > 1:
            sys.exit(128 + number)
        if not self._control_plane:
            raise Stopped(number)

    def _show_unless_stopped(self, unraisable: Any) -> None:
        """A handler that runs in a destructor or in the garbage collector raises in vain; `hold` and the thread see to it."""
        if not isinstance(unraisable.exc_value, Stopped):
            self._show_unraisable(unraisable)

    def _listen(self) -> None:
        """The thread: one byte for each signal, its number."""
        num_heard, end_asked, end = 0, False, _NEVER
        while True:
            self._incoming.settimeout(None if end is _NEVER else max(end.time - self._clock(), 0.001))
            try:
                [number] = self._incoming.recv(1)
            except TimeoutError:
                self._tell(end.why)
                if self._control_plane:
                    self._control_plane.leave(end.exit_code, end.why)
                self._end_process(end.exit_code)
                return
            if number == 0:
                return
            if number not in EXIT_CODES or (number == signal.SIGHUP and end_asked):  # others may have handlers too
                continue
            end_asked = True
            num_heard += number != signal.SIGHUP
            end = min(end, self._answer(number)) if num_heard < 2 else self._answer_again(number)

    def _tell(self, sentence: str) -> None:
        """Reports, but waits no longer than `MAX_LOG_SECS`: the main thread may have been interrupted with a lock of logging held."""
        thread = threading.Thread(target=self._log, args=(sentence,), name="jaxdp-log", daemon=True)
        thread.start()
        thread.join(MAX_LOG_SECS)

    def _answer(self, number: int) -> "_End":
        self._received = self._received or _request(number)
        name, now, grace = signal.Signals(number).name, self._clock(), self._grace_secs
        if not self._control_plane:
            self._tell(f"{name}: nothing is to be saved yet; stopping")
            return _End(now + UNWIND_SECS, exit_code(number), f"{name}: stopped")
        within = f", within {grace:g} s (checkpoint.grace_secs)" if grace else ""
        self._tell(f"{name}: saving after this step{within}; once more to stop at once")
        if not grace:
            return _NEVER
        self._deadline = now + grace - max(MARGIN_SHARE * grace, MIN_MARGIN_SECS)
        return _End(
            self._deadline,
            exit_code(number),
            f"{name}: step and save take longer than checkpoint.grace_secs={grace:g} allows; leaving without them, "
            "the same command continues from the checkpoint before",
        )

    def _answer_again(self, number: int) -> "_End":
        name = signal.Signals(number).name
        self._tell(f"{name} again: stopping at once")
        return _End(self._clock() + UNWIND_SECS, 128 + number, f"{name} again: stopped")


class _End(NamedTuple):
    """When, with which exit code and which words the thread ends the process."""

    time: float
    exit_code: int
    why: str


_NEVER = _End(math.inf, 0, "")


def _request(number: int) -> Request:
    """Returns the request of a signal; SIGHUP counts as SIGTERM."""
    return Request.TERMINATE if number == signal.SIGHUP else Request(number)


def exit_code(request: int) -> int:
    """Returns the exit code of a run that this request stopped; 0 for `Request.NONE`."""
    return EXIT_CODES[signal.Signals(request)] if request else 0
