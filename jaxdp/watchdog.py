"""A thread that ends a run which makes no progress.

A collective whose peer is gone, or a file system that no longer answers, holds
a process for ever and raises nothing. The watchdog then says which phase hangs
and since when, writes the stacks of all threads, and ends the process with exit
code 70 by `os._exit`, which no hung call can hold up, so that a launcher starts
the run again. It does so before JAX's own heartbeat would abort the process (exit
code 134), of which Python sees nothing: see `longest_limit_secs`.
"""

import contextlib
import faulthandler
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

EXIT_CODE = 70
TICK_SECS = 1.0

FLOOR_SECS = 300.0
"""Least limit of a step when it is learned: a file system may be gone for minutes and come back."""

MEDIAN_MULTIPLE = 20
"""Learned limit of a step in medians of the steps before."""

WARMUP_STEPS = 5
"""Steps before the median is trusted; until then, as in the first step of a set limit, that of a phase holds."""

PHASE_SECS = 3600.0
"""Limit of what is no step, such as compiling or saving, and the largest learned limit of a step."""

PHASE_MULTIPLE = 10
"""The same in limits of a step, where that is set."""

PREPARATION_PATIENCE = 10
"""Limit of preparing the data in limits of other phases: a large corpus is tokenized once, for hours."""

REPORT_SECS = 10.0
"""Longest time for writing the stacks: the disk or terminal they go to may be what hangs."""

TRAINING = "training"
"""The phase in which steps are expected."""


def longest_limit_secs(watchdog_secs: float | None) -> float:
    """The longest time a process that has met its peers may go without progress; 0: for ever.

    JAX's heartbeat timeout has to be longer, or it would abort first.

    Args:
        watchdog_secs: the configuration's value; None: learned.
    """
    return PHASE_SECS if watchdog_secs is None else PHASE_MULTIPLE * watchdog_secs


class Watchdog:
    """Ends the process when the phase it is in makes no progress; a context manager.

    Entering and leaving a phase is progress, and so is a beat. Time in which the
    process as a whole was stopped (Ctrl-Z, SIGSTOP) does not count.
    """

    def __init__(
        self,
        watchdog_secs: float | None,
        log: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], None] = os._exit,
    ):
        """Creates the watchdog.

        Args:
            watchdog_secs: limit of a step; None: learned; 0: off.
            log: file to which the stacks go beside stderr.
            clock: seconds; replaced in tests.
            end: ends the process with an exit code; replaced in tests.
        """
        self._secs = watchdog_secs
        self._log = log
        self._log_stat: os.stat_result | None = None
        self._clock = clock
        self._end = end
        self._phases: list[tuple[str, float]] = [("starting or ending", 1.0)]
        self._step: int | None = None
        self._step_secs: deque[float] = deque(maxlen=101)
        # The thread compares the count with what it saw before, so no beat can be lost
        # to a race, as it could if both sides set a time.
        self._beats = self._seen_beats = 0
        self._idle_secs = 0.0
        self._last_tick = clock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="jaxdp-watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._secs != 0:
            with contextlib.suppress(FileNotFoundError):
                self._log_stat = os.stat(self._log)
            self._last_tick = self._clock()
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stopping.set()

    @contextlib.contextmanager
    def phase(self, name: str, patience: float = 1.0) -> Iterator[None]:
        """What the run is doing now; phases may lie in each other, the innermost counts.

        Args:
            name: for the message, such as `saving a checkpoint`; TRAINING has the
                limit of a step, every other the longer one of phases.
            patience: multiplies the limit.
        """
        self._phases.append((name, patience))
        self.beat()
        try:
            yield
        finally:
            self._phases.pop()
            self.beat()

    def beat(self) -> None:
        """Something was done, such as a batch of an evaluation."""
        self._beats += 1

    def step_finished(self, step: int, step_secs: float) -> None:
        """A step was done; its time teaches the limit."""
        self._step = step
        self._step_secs.append(step_secs)
        self.beat()

    def limit_secs(self) -> float:
        """How long the present phase may go without progress."""
        name, patience = self._phases[-1]
        enough = WARMUP_STEPS if self._secs is None else 1
        if name != TRAINING or len(self._step_secs) < enough:
            return patience * longest_limit_secs(self._secs)
        if self._secs is not None:
            return self._secs
        median = statistics.median(list(self._step_secs))
        return min(max(FLOOR_SECS, MEDIAN_MULTIPLE * median), PHASE_SECS)

    def tick(self) -> None:
        """Counts the time since the last tick and ends the process when it was too long."""
        now = self._clock()
        # A longer gap means that this thread could not run, so no other could.
        elapsed, self._last_tick = min(now - self._last_tick, 2 * TICK_SECS), now
        if self._beats != self._seen_beats:
            self._seen_beats, self._idle_secs = self._beats, 0.0
            return
        self._idle_secs += elapsed
        if self._idle_secs > self.limit_secs():
            report = threading.Thread(target=self._report, daemon=True)
            report.start()
            report.join(REPORT_SECS)
            self._end(EXIT_CODE)

    def _watch(self) -> None:
        while not self._stopping.wait(TICK_SECS):
            self.tick()

    def _report(self) -> None:
        """Writes the stacks and a sentence, past every buffer and lock that may be what hangs."""
        threads = ", ".join(f"{thread.ident:#018x} {thread.name}" for thread in threading.enumerate())
        with contextlib.suppress(OSError), open(2, "wb", buffering=0, closefd=False) as stderr:  # the terminal may be gone
            self._write(stderr, threads)
        with contextlib.suppress(OSError), open(self._log, "ab", buffering=0) as log:  # its disk may be full
            if self._log_stat and not os.path.samestat(os.fstat(log.fileno()), self._log_stat):
                return  # another run has begun at its path
            self._write(log, threads)

    def _write(self, file: BinaryIO, threads: str) -> None:
        file.write(f"\njaxdp: watchdog: stacks of all threads ({threads}):\n".encode())
        faulthandler.dump_traceback(file, all_threads=True)
        file.write(f"jaxdp: watchdog: {self._sentence()}\n".encode())

    def _sentence(self) -> str:
        name, _ = self._phases[-1]
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - self._idle_secs))
        last = "no step was finished" if self._step is None else f"the last finished step is {self._step}"
        return (
            f"no progress while {name} since {since}, for {self._idle_secs:.0f} s "
            f"(limit {self.limit_secs():.0f} s); {last}. Ending with exit code {EXIT_CODE}: the same command "
            "continues from the last checkpoint. If it was only slow, raise parallel.watchdog_secs, or set it to 0 "
            "(off)."
        )
