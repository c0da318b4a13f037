"""Watchdog: a thread that ends a run which makes no progress.

A collective whose other process is gone, or a file system that no longer responds,
blocks forever and raises nothing. The watchdog then logs the hanging phase and its
start time, writes the stacks of all threads, and ends the process with exit code 70
by `os._exit`, which no hung call can delay, so that a launcher starts the run again.
It acts before JAX's heartbeat would abort the process (exit code 134) without a
Python exception; see `max_limit_secs`. With several processes it first asks which of
them holds up the run, so that the last sentence of each names the one at fault.
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
from typing import BinaryIO, Protocol

from jaxdp.activity import Activity, place_of

EXIT_CODE = 70
TICK_SECS = 1.0

FLOOR_SECS = 300.0
"""Minimum of a learned step limit: a file system may be unavailable for minutes and recover."""

MEDIAN_MULTIPLE = 20
"""Learned step limit, as a multiple of the median time of the previous steps."""

WARMUP_STEPS = 5
"""Number of steps before the median is used; until then, as in the first step of a set limit, the phase limit applies."""

PHASE_SECS = 3600.0
"""Limit of phases other than steps, such as compiling or saving, and the maximum of a learned step limit."""

PHASE_MULTIPLE = 10
"""Limit of a phase as a multiple of the step limit, if that is set."""

PREPARATION_PATIENCE = 10
"""Limit of data preparation as a multiple of other phases: a large corpus takes hours to tokenize, once."""

REPORT_SECS = 10.0
"""Longest time for writing the stacks and for asking the other processes; a disk, a terminal or the network may be the
cause of the hang."""

TRAINING = "training"
"""Name of the phase in which steps are expected."""

OUTSIDE = "starting or ending"
"""Name of the time outside all phases."""


class Others(Protocol):
    """The other processes of the run, as the watchdog sees them."""

    def culprits(self) -> str:
        """Names the process that holds up the run; empty for a single process. Waits a few seconds at most."""
        ...

    def leave(self, exit_code: int, sentence: str) -> None:
        """Notifies the others that this process stops."""
        ...


def max_limit_secs(watchdog_secs: float | None) -> float:
    """Returns the longest time that a connected process may make no progress; 0: unlimited.

    JAX's heartbeat timeout must be longer, or it would abort first.

    Args:
        watchdog_secs: Value of `parallel.watchdog_secs`; None: learned.
    """
    return PHASE_SECS if watchdog_secs is None else PHASE_MULTIPLE * watchdog_secs


class Watchdog:
    """Context manager that ends the process when its current phase makes no progress.

    Entering a phase, leaving it and `beat` are progress. Time in which the whole
    process was stopped (Ctrl-Z, SIGSTOP) does not count.
    """

    def __init__(
        self,
        watchdog_secs: float | None,
        log: Path,
        others: Others | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], None] = os._exit,
        on_phase: Callable[[str], None] = lambda name: None,
    ):
        """Creates the watchdog.

        Args:
            watchdog_secs: Limit of a step in seconds; None: learned; 0: off.
            log: File that receives the stacks, in addition to stderr.
            others: The other processes of the run; None: no other.
            clock: Returns the time in seconds; replaced in tests.
            end: Ends the process with an exit code; replaced in tests.
            on_phase: Called with the name of the phase that begins, or that goes on after an inner one.
        """
        self._secs = watchdog_secs
        self._log = log
        self._others = others
        self._main = threading.get_ident()
        self._log_stat: os.stat_result | None = None
        self._clock = clock
        self._end = end
        self._on_phase = on_phase
        self._phases: list[tuple[str, float]] = [(OUTSIDE, 1.0)]
        self._step: int | None = None
        self._culprits = ""
        self._step_secs: deque[float] = deque(maxlen=101)
        # The thread compares the count with the last one that it saw, so no beat is lost
        # to a race, as it could be if both threads set a time.
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
        """Marks a phase of the run; phases may be nested, the innermost counts.

        Args:
            name: Name for the message, e.g. "saving a checkpoint"; TRAINING has the
                limit of a step, every other phase the longer phase limit.
            patience: Factor of the limit.
        """
        self._phases.append((name, patience))
        self.beat()
        self._on_phase(name)
        try:
            yield
        finally:
            self._phases.pop()
            self.beat()
            self._on_phase(self._phases[-1][0])

    def beat(self) -> None:
        """Reports progress, such as a finished batch of an evaluation."""
        self._beats += 1

    def step_finished(self, step: int, step_secs: float) -> None:
        """Reports a finished step; its time enters the learned limit."""
        self._step = step
        self._step_secs.append(step_secs)
        self.beat()

    def limit_secs(self) -> float:
        """Returns the seconds that the current phase may make no progress."""
        name, patience = self._phases[-1]
        enough = WARMUP_STEPS if self._secs is None else 1
        if name != TRAINING or len(self._step_secs) < enough:
            return patience * max_limit_secs(self._secs)
        if self._secs is not None:
            return self._secs
        median = statistics.median(list(self._step_secs))
        return min(max(FLOOR_SECS, MEDIAN_MULTIPLE * median), PHASE_SECS)

    def tick(self) -> None:
        """Adds the time since the last tick and ends the process when the limit is exceeded."""
        now = self._clock()
        # A longer gap means that the whole process was stopped.
        elapsed, self._last_tick = min(now - self._last_tick, 2 * TICK_SECS), now
        if self._beats != self._seen_beats:
            self._seen_beats, self._idle_secs = self._beats, 0.0
            return
        self._idle_secs += elapsed
        if self._idle_secs > self.limit_secs():
            for act in (self._report, self._leave):
                thread = threading.Thread(target=act, daemon=True)
                thread.start()
                thread.join(REPORT_SECS)
            self._end(EXIT_CODE)

    def _watch(self) -> None:
        while not self._stopping.wait(TICK_SECS):
            self.tick()

    def activity(self) -> Activity:
        """Returns what this process does, for another one whose run makes no progress; starts to write the stacks to the log."""
        threading.Thread(target=self._write_log, args=(_write_stacks,), name="jaxdp-stacks", daemon=True).start()
        place, waits = place_of(self._main)
        return Activity(self._phases[-1][0], self._idle_secs, place, waits)

    def _report(self) -> None:
        """Writes the stacks and a sentence without buffers and locks, which may be the cause of the hang."""
        self._write_stderr(_write_stacks)
        self._write_log(_write_stacks)
        self._culprits = self._others.culprits() if self._others else ""
        sentence = self._sentence()
        for write in (self._write_stderr, self._write_log):
            write(lambda file: file.write(f"jaxdp: watchdog: {sentence}\n".encode()))

    def _leave(self) -> None:
        """Notifies the other processes, so that none of them waits for this one."""
        if self._others:
            stuck = f"no progress while {self._phases[-1][0]} for {self._idle_secs:.0f} s"
            self._others.leave(EXIT_CODE, "; ".join(filter(None, (stuck, self._culprits))))

    def _write_stderr(self, write: Callable[[BinaryIO], object]) -> None:
        with (
            contextlib.suppress(OSError),
            open(2, "wb", buffering=0, closefd=False) as stderr,
        ):  # the terminal may be gone
            write(stderr)

    def _write_log(self, write: Callable[[BinaryIO], object]) -> None:
        with contextlib.suppress(OSError), open(self._log, "ab", buffering=0) as log:  # its disk may be full
            if self._log_stat and not os.path.samestat(os.fstat(log.fileno()), self._log_stat):
                return  # the path belongs to another run now
            write(log)

    def _sentence(self) -> str:
        name, _ = self._phases[-1]
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - self._idle_secs))
        found = f"; {self._culprits}" if self._culprits else ""
        last = "no step was finished" if self._step is None else f"the last finished step is {self._step}"
        return (
            f"no progress while {name} since {since}, for {self._idle_secs:.0f} s "
            f"(limit {self.limit_secs():.0f} s); {last}{found}. Ending with exit code {EXIT_CODE}: the same command "
            "continues from the last checkpoint. If it was only slow, raise parallel.watchdog_secs, or set it to 0 "
            "(off)."
        )


def _write_stacks(file: BinaryIO) -> None:
    """Writes the stacks of all threads."""
    threads = ", ".join(f"{thread.ident:#018x} {thread.name}" for thread in threading.enumerate())
    file.write(f"\njaxdp: watchdog: stacks of all threads ({threads}):\n".encode())
    faulthandler.dump_traceback(file, all_threads=True)
