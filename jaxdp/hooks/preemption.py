"""Preemption: on SIGTERM, SIGHUP or Ctrl-C finishes the step, saves and exits.

A signal only sets a number; the control word of the step carries it to all
processes, so all of them stop after the same step. While there is nothing to save
yet, the first signal stops the run at once; a second one always does.

Python runs a handler between two bytecodes of the main thread, which are minutes
apart while it compiles or waits for devices. So a thread receives signals as well:
it confirms the signal to the user, and ends the process if the main thread does not
do so in time.
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
"""Share of the grace period that is reserved for the exit, and its minimum."""


MAX_LOG_SECS = 2.0
"""Longest time that a log call delays the end of the process."""


class Preemption(Hook):
    """Context manager that turns the first SIGINT, SIGTERM or SIGHUP into a request to stop.

    SIGHUP, which a closing terminal sends, is treated as SIGTERM; if it is ignored, as under `nohup`, it stays
    ignored.
    """

    name = "preemption"

    def __init__(
        self,
        log: Callable[[str], None],
        grace_secs: float = 0.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        end_process: Callable[[int], None] = os._exit,
    ):
        """Creates the hook.

        Args:
            log: Called with sentences for the user.
            grace_secs: Seconds between the signal and the kill that follows it; 0: unknown.
            clock: Returns the time in seconds; replaced in tests.
            end_process: Ends the process with an exit code, regardless of the main thread;
                replaced in tests.
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
        self._previous: dict[int, Any] = {}  # handlers, as `signal.signal` returns them

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
            # None: installed by C code; Python cannot restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._previous_descriptor)
        if sys.unraisablehook == self._show_unless_stopped:  # no other hook has been installed meanwhile
            sys.unraisablehook = self._show_unraisable
        self._outgoing.send(b"\0")  # not a signal number: ends the thread
        self._thread.join()
        self._outgoing.close()
        self._incoming.close()

    def hold(self, control_plane: ControlPlane) -> None:
        """Makes the first signal a request from now on, as there is a state to save or other processes to agree with.

        Raises:
            Stopped: A signal has already arrived.
        """
        if self._received and not self._control_plane:
            raise Stopped(self._received)
        self._control_plane = control_plane

    def on_start(self, step: int, state: TrainState) -> None:
        """Stops before the first step if any process has received a signal since `hold`.

        A loop that starts again after a rollback does not stop here; its state is saved
        with the next step.
        """
        assert self._control_plane is not None, "hold() precedes the loop"
        request = Request.NONE if self._has_started else max(self._control_plane.allgather(self._received))
        self._has_started = True
        if request:
            raise StopTraining(request)

    def request(self) -> int:
        """Returns the request of the signal that this process has received."""
        return self._received

    def remaining_secs(self) -> float:
        """Returns the seconds until this process must exit; inf before a signal or without a grace period."""
        return self._deadline - self._clock()

    def _handle(self, number: int, _frame) -> None:
        """Handles a signal in the main thread."""
        if number == signal.SIGHUP and self._received:
            return  # the kernel, the shell and the service manager may each send SIGHUP
        self._received = self._received or _request(number)
        self._num_handled += number != signal.SIGHUP
        if self._num_handled > 1:
            sys.exit(128 + number)
        if not self._control_plane:
            raise Stopped(number)

    def _show_unless_stopped(self, unraisable: Any) -> None:
        """Hides `Stopped` that a destructor or the garbage collector swallows; `hold` and the thread act on the signal."""
        if not isinstance(unraisable.exc_value, Stopped):
            self._show_unraisable(unraisable)

    def _listen(self) -> None:
        """Receives one byte a signal, its number, and acts on it; body of the thread."""
        num_heard, has_request, end = 0, False, _NEVER
        while True:
            self._incoming.settimeout(None if end is _NEVER else max(end.time - self._clock(), 0.001))
            try:
                [number] = self._incoming.recv(1)
            except TimeoutError:
                self._log_promptly(end.why)
                if self._control_plane:
                    self._control_plane.leave(end.exit_code, end.why)
                self._end_process(end.exit_code)
                return
            if number == 0:
                return
            if number not in EXIT_CODES or (
                number == signal.SIGHUP and has_request
            ):  # other code may handle other signals
                continue
            has_request = True
            num_heard += number != signal.SIGHUP
            end = min(end, self._answer(number)) if num_heard < 2 else self._answer_again(number)

    def _log_promptly(self, sentence: str) -> None:
        """Logs a sentence within `MAX_LOG_SECS`, as the interrupted main thread may hold a lock of logging."""
        thread = threading.Thread(target=self._log, args=(sentence,), name="jaxdp-log", daemon=True)
        thread.start()
        thread.join(MAX_LOG_SECS)

    def _answer(self, number: int) -> "_End":
        self._received = self._received or _request(number)
        name, now, grace = signal.Signals(number).name, self._clock(), self._grace_secs
        if not self._control_plane:
            self._log_promptly(f"{name}: nothing is to be saved yet; stopping")
            return _End(now + UNWIND_SECS, exit_code(number), f"{name}: stopped")
        within = f", within {grace:g} s (checkpoint.grace_secs)" if grace else ""
        self._log_promptly(f"{name}: saving after this step{within}; once more to stop at once")
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
        self._log_promptly(f"{name} again: stopping at once")
        return _End(self._clock() + UNWIND_SECS, 128 + number, f"{name} again: stopped")


class _End(NamedTuple):
    """Planned end of the process: time, exit code and reason."""

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
