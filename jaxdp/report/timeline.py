"""Timeline of a run: phases, steps and restarts as JSON lines, and a heartbeat that survives SIGKILL.

`logs/timeline.jsonl` has one line for each start, phase and restored step, over all
starts of a run; nothing is ever removed from it. `logs/heartbeat.json` has one record
of fixed length, overwritten after every step and every second: the last sign of life
of a process that is killed. Its bytes are in the page cache of the kernel when the
call returns, so the death of the process cannot lose them. The next start moves the
record into the timeline.

Events: "start" (`begin`: when the command began), "phase" (`phase`: what begins),
"resume" (`step`: the restored step; later steps are lost), "heartbeat", "end"
(`complete`: whether the run has reached its end) and "refused" (`begin`: when a
command began that ended with an error of the user; the only event of a start that was
refused before its timeline began, and possibly in the middle of another start). Each has `time` in Unix seconds, and
those of a running loop `step` (finished steps), `wait` and `other` (seconds since the
start that the loop waited for data and spent in phases without lines).
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxdp.json_files import open_regular, parse_json, read_regular
from jaxdp.report.terminal import print_status

BEAT_SECS = 1.0
"""Time between two records of a process without steps."""

MAX_LINE_BYTES = 2**16
"""Longest line that is read."""

_RECORD = b'{"start": %.6f, "time": %.6f, "step": %-19d, "wait": %-19.6f, "other": %-19.6f}\n'
"""Heartbeat record. Its length is fixed, so that a shorter one leaves no rest of a longer one."""

Event = dict[str, Any]


def unix_clock() -> Callable[[], float]:
    """Returns a clock in Unix seconds that never goes back, since it follows the monotonic clock from now on."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


class Timeline:
    """Context manager that records one start of a run.

    A file that cannot be written is reported once, and the start is recorded no further:
    the record of a run must not stop it.
    """

    def __init__(
        self,
        path: Path,
        heartbeat: Path,
        phases: frozenset[str],
        *,
        is_recorded: bool = True,
        begin: float | None = None,
        clock: Callable[[], float] | None = None,
    ):
        """Creates the recorder; nothing is written before `__enter__`.

        Args:
            path: The timeline.jsonl, to which lines are appended.
            heartbeat: The heartbeat record of the run.
            phases: Phases that have lines; the time of all others is added up in `other`.
            is_recorded: Whether anything is written; False in processes other than the main one.
            begin: Unix time at which the command began; None: now.
            clock: Returns the time in Unix seconds; replaced in tests.
        """
        self._path, self._heartbeat, self._phases = path, heartbeat, phases
        self._clock = clock or unix_clock()
        self._is_recorded = is_recorded
        now = self._clock()
        self._begin = round(now if begin is None else min(begin, now), 6)
        self._line_file = self._record_file = -1
        self._step, self._wait_secs, self._other_secs = 0, 0.0, 0.0
        self._other_since: float | None = None
        self._current = ""
        self._is_complete = False
        self._lock = threading.Lock()  # a record of the thread must not overwrite a later step
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat_always, name="jaxdp-timeline", daemon=True)

    def __enter__(self) -> "Timeline":
        if self._is_recorded:
            try:
                self._open()
            except OSError as error:
                self._give_up(error)
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stopping.set()
        self._add("end", complete=self._is_complete, **self._counts())
        with self._lock:
            self._close()

    def phase(self, name: str) -> None:
        """Records that a phase begins, or that the phase around it goes on."""
        with self._lock:
            now = self._clock()
            self._other_secs = self._other_until(now)
            self._other_since = None if name in self._phases else now
        if name in self._phases and name != self._current:
            self._current = name
            self._add("phase", now, phase=name, **self._counts())

    def step_finished(self, step: int, wait_secs: float) -> None:
        """Records a finished step, and the seconds that the loop waited for its batch."""
        with self._lock:
            self._step = step
            self._wait_secs += wait_secs
            self._write_record()

    def resume(self, step: int) -> None:
        """Records that training continues from the state after this step; later steps are lost."""
        self._step = step
        self._add("resume", step=step)

    def complete(self) -> None:
        """Marks the run as complete: the time until a later start is no downtime."""
        self._is_complete = True

    def beat(self) -> None:
        """Records that the process is alive."""
        with self._lock:
            self._write_record()

    def _beat_always(self) -> None:
        while not self._stopping.wait(BEAT_SECS):
            self.beat()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        self._path.parent.mkdir(exist_ok=True)
        self._line_file = os.open(self._path, flags | os.O_APPEND, 0o666)
        _end_line(self._line_file)
        if last := read_record(self._heartbeat):
            self._add("heartbeat", **last)
        self._record_file = os.open(self._heartbeat, flags, 0o666)
        self._add("start", begin=self._begin)

    def _other_until(self, now: float) -> float:
        """Returns the seconds in phases without lines, the present one included."""
        return self._other_secs if self._other_since is None else self._other_secs + now - self._other_since

    def _counts(self) -> dict[str, float]:
        return {"step": self._step, "wait": round(self._wait_secs, 6), "other": round(self._other_secs, 6)}

    def _add(self, event: str, now: float | None = None, **values: Any) -> None:
        """Appends a line, then writes the record."""
        if self._line_file < 0:
            return
        line = json.dumps({"event": event, "time": round(self._clock() if now is None else now, 6)} | values)
        try:
            os.write(self._line_file, line.encode() + b"\n")
        except OSError as error:
            self._give_up(error)
        self.beat()

    def _write_record(self) -> None:
        if self._record_file < 0:
            return
        now = self._clock()
        record = _RECORD % (self._begin, now, self._step, self._wait_secs, self._other_until(now))
        try:
            os.pwrite(self._record_file, record, 0)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._close()
        print_status(
            f"{self._path.parent} can no longer be written ({error.strerror}); training goes on, but "
            "`jaxdp inspect` will not know how this start spent its time"
        )

    def _close(self) -> None:
        files = (self._line_file, self._record_file)
        self._line_file = self._record_file = -1
        for file in files:
            if file >= 0:
                os.close(file)


def record_refusal(path: Path, begin: float | None) -> None:
    """Records in the timeline of a run that a start was refused; makes no file.

    Args:
        path: The timeline.jsonl.
        begin: Unix time at which the command began; None: nothing is recorded, since its time is not known.
    """
    if begin is None:
        return
    with contextlib.suppress(OSError):  # no run yet, or not writable: the error of the user must be shown nevertheless
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _end_line(file)
            event = {"event": "refused", "time": round(time.time(), 6), "begin": round(begin, 6)}
            os.write(file, json.dumps(event).encode() + b"\n")
        finally:
            os.close(file)


def _end_line(file: int) -> None:
    """Ends a line that a crash of the machine has left."""
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        os.write(file, b"\n")


def read_record(heartbeat: Path) -> Event | None:
    """Reads a heartbeat record; None if there is none, or not a whole one."""
    try:
        record = _event(read_regular(heartbeat, MAX_LINE_BYTES))
    except OSError:
        return None
    return record and {key: record.get(key, 0) for key in ("start", "time", "step", "wait", "other")}


def read_timeline(path: Path) -> list[Event]:
    """Reads the events of a timeline, in order; lines that are not whole, which a crash of the machine may leave, are left out.

    Raises:
        OSError: The file is missing or not readable.
    """
    events = []
    with open_regular(path) as file:
        while line := file.readline(MAX_LINE_BYTES):
            if (event := _event(line)) and isinstance(event.get("event"), str):
                events.append(event)
    return events


def _event(text: bytes) -> Event | None:
    """Parses an event: an object with a time, whose other values have the types that the recorder writes."""
    try:
        event = parse_json(text)
    except ValueError:
        return None
    if not isinstance(event, dict):
        return None
    numbers = (event.get(name, 0) for name in ("start", "begin", "step", "wait", "other"))
    return event if "time" in event and all(map(_is_number, (event["time"], *numbers))) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53
