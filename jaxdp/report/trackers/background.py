"""Background delivery to experiment trackers: bounded queue, repeated attempts, one message about a failure."""

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxdp.redact import mask_environment, mask_secrets
from jaxdp.report.terminal import print_status
from jaxdp.report.trackers.run_record import RunRecord
from jaxdp.report.trackers.tracker import Tracker
from jaxdp.report.writers import Value

MAX_WAITING = 10_000
"""Most lines of metrics that wait for a tracker, some megabytes; later ones are dropped and counted."""

MAX_ATTEMPTS = 8
"""Calls of a method with the same line before the line is dropped; `flush` is repeated without limit."""

MAX_CLOSING_ATTEMPTS = 3
"""Calls that may fail while the run ends, before the rest is given up."""


class Waits(NamedTuple):
    """Durations in seconds; replaced in tests.

    Attributes:
        batch: Time in which lines gather before they are sent, so that the thread wakes up rarely.
        first: Time before a failed call is repeated; doubled with each attempt.
        longest: Longest time between two attempts.
        close: Time that the end of a run waits for what is not sent.
        closing: Time between attempts while it waits.
    """

    batch: float = 5.0
    first: float = 1.0
    longest: float = 60.0
    close: float = 45.0
    closing: float = 0.5


DEFAULT_WAITS = Waits()


class _Closing(Exception):
    """The run ends: nothing is attempted again."""


class _GivenUp(Exception):
    """The largest number of attempts has failed."""


class Background:
    """Metrics writer that passes everything to a `Tracker` in a thread of its own.

    Training never waits for the tracker, and no failure of it reaches training: the first is printed, the rest are
    counted. Steps that an earlier start of the run has sent are not sent again.
    """

    def __init__(
        self,
        name: str,
        open_tracker: Callable[[], Any],
        record: RunRecord | None = None,
        metrics: Path | None = None,
        waits: Waits = DEFAULT_WAITS,
    ):
        """Starts the thread, which opens the tracker first.

        Args:
            name: Name of the tracker, for messages.
            open_tracker: Function that opens it: a `Tracker`, or any object with `write(step, values)` and `close()`.
            record: Steps that were sent before; None: all are sent.
            metrics: metrics.jsonl of the run, for messages.
            waits: Durations.
        """
        self._name, self._open, self._record, self._metrics, self._waits = name, open_tracker, record, metrics, waits
        self._waiting: deque[tuple[str, tuple]] = deque()
        self._news, self._closing = threading.Event(), threading.Event()
        self._num_lost = 0
        self._held: list[tuple[int, list[str]]] = []
        self._is_failing = self._has_reported = self._is_abandoned = False
        self._thread = threading.Thread(target=self._run, name=f"jaxdp-{name}", daemon=True)
        self._thread.start()

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Queues metrics; returns at once."""
        self._put("write", step, dict(values))

    def write_samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        """Queues generated texts."""
        self._put("write_samples", step, [dict(sample) for sample in samples])

    def write_figure(self, step: int, name: str, draw: Callable[[], bytes]) -> None:
        """Queues a picture, which the thread draws."""
        self._put("write_figure", step, name, draw)

    def close(self) -> None:
        """Waits a limited time until everything is sent, and prints how many lines were not."""
        self._closing.set()
        self._news.set()
        self._thread.join(self._waits.close)
        self._is_abandoned = self._thread.is_alive()
        num_lost = self._num_lost + len(self._waiting)
        if num_lost or self._is_abandoned:
            lost = f"{num_lost:,} lines of metrics were not sent" if num_lost else "its end is still being sent"
            kept = f"; {self._metrics} has every line" if self._metrics else ""
            self._print(f"{self._name}: {lost}{kept}")

    def _put(self, method: str, *arguments: Any) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self._num_lost += 1
            return
        self._waiting.append((method, arguments))
        self._news.set()

    def _run(self) -> None:
        """Opens the tracker, sends until the run ends, and closes the tracker."""
        try:
            tracker = self._attempt(self._open)
        except _Closing:
            return
        with contextlib.suppress(_Closing):
            if tracker is None:  # a registered function that makes no writer for this run
                self._waiting = deque(maxlen=0)
                return
            last_step = self._attempt(tracker.last_step) if isinstance(tracker, Tracker) else -1
            while not (self._closing.is_set() and not self._waiting):
                self._news.wait()
                self._closing.wait(self._waits.batch)
                self._news.clear()
                self._send(tracker, last_step)
        self._end(tracker)

    def _send(self, tracker: Any, last_step: int) -> None:
        """Sends what is waiting, then counts it as sent."""
        while self._waiting:
            method, arguments = self._waiting[0]
            names, arguments = self._unsent(method, arguments, last_step)
            if names and hasattr(tracker, method):
                call = getattr(tracker, method)
                try:
                    self._attempt(lambda call=call, given=arguments: call(*_resolved(given)), MAX_ATTEMPTS)
                    self._count(tracker, arguments[0], names)
                except _GivenUp:
                    self._num_lost += 1
            self._waiting.popleft()
        if isinstance(tracker, Tracker):
            self._attempt(tracker.flush)
        if self._record:
            self._attempt(self._record.save, MAX_ATTEMPTS)

    def _unsent(self, method: str, arguments: tuple, last_step: int) -> tuple[list[str], tuple]:
        """Returns what no earlier start has sent: the names, none if all was, and the arguments, texts without secrets."""
        step, record = arguments[0], self._record
        values = arguments[1] if method == "write" else {}
        names = list(values) or ["samples" if method == "write_samples" else f"figures {arguments[1]}"]
        names = [name for name in names if step > last_step and not (record and record.is_sent(step, name))]
        if method == "write":
            sent = {name: values[name] for name in names}
            arguments = (step, {name: mask_secrets(it) if isinstance(it, str) else it for name, it in sent.items()})
        return names, arguments

    def _count(self, tracker: Any, step: int, names: list[str]) -> None:
        """Counts as sent what the tracker has stored: of one that holds its last step, what came before that step."""
        holds = getattr(tracker, "holds_last_step", False)
        if not holds or (self._held and self._held[0][0] != step):
            self._release()
        self._held.append((step, names))
        if not holds:
            self._release()

    def _release(self) -> None:
        for step, names in self._held:
            if self._record:
                self._record.add(step, names)
        self._held.clear()

    def _attempt(self, call: Callable[[], Any], max_attempts: int | None = None) -> Any:
        """Calls until it succeeds, with growing pauses; prints the first failure and the recovery from it.

        Raises:
            _GivenUp: `max_attempts` calls failed.
            _Closing: It failed while the run ends.
        """
        pause = self._waits.first
        number = num_closing = 0
        while True:
            number += 1
            try:
                result = call()
            except Exception as error:
                self._report(error)
                if self._closing.is_set():
                    num_closing += 1
                    if num_closing == MAX_CLOSING_ATTEMPTS:
                        raise _Closing from None
                    time.sleep(self._waits.closing)
                    continue
                if number == max_attempts:
                    raise _GivenUp from None
                self._closing.wait(pause)
                pause = min(2 * pause, self._waits.longest)
            else:
                if self._is_failing:
                    self._is_failing = False
                    logging.getLogger("jaxdp").info("%s receives metrics again", self._name)
                return result

    def _report(self, error: Exception) -> None:
        """Prints the first failure; logs the first of every later outage."""
        why = mask_environment(f"{type(error).__name__}: {str(error).strip() or 'no message'}", os.environ)
        sentence = f"{self._name} cannot be written to ({' '.join(why.split())[:300]})"
        if not self._has_reported:
            self._print(f"{sentence}; training continues, and up to {MAX_WAITING:,} lines of metrics wait for it")
        elif not self._is_failing:
            logging.getLogger("jaxdp").info("%s again", mask_secrets(sentence))
        self._is_failing = self._has_reported = True

    def _end(self, tracker: Any) -> None:
        """Closes the tracker, which stores what it holds."""
        try:
            tracker.close()
            self._release()
            if self._record:
                self._record.save()
        except Exception as error:
            self._report(error)

    def _print(self, sentence: str) -> None:
        if not self._is_abandoned or threading.current_thread() is not self._thread:
            print_status(sentence)


def drawn_once(draw: Callable[[], bytes]) -> Callable[[], bytes]:
    """Returns a function that draws a picture at its first call only, also if several threads call it."""
    lock, drawn = threading.Lock(), []

    def picture() -> bytes:
        with lock:
            if not drawn:
                drawn.append(draw())
            return drawn[0]

    return picture


def _resolved(arguments: tuple) -> tuple:
    """Returns the arguments, with a function that draws replaced by its picture."""
    return tuple(value() if callable(value) else value for value in arguments)
