"""Stall meter: time in which the process was not executed, because it was stopped, throttled or starved of CPU time."""

import threading
import time
from collections.abc import Callable

TICK_SECS = 0.05
"""Sleep of the thread that measures; costs less than 0.1 % of a core."""

TOLERANCE_SECS = 0.01
"""Delay of a wake-up that is normal on a busy machine."""


class StallMeter:
    """Context manager of a thread that sleeps for short times and adds up how much later than due it wakes up.

    Attributes:
        secs: Seconds in which the process was not executed, since the start.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        """Creates the meter.

        Args:
            clock: Returns the time in seconds; replaced in tests.
        """
        self.secs = 0.0
        self._clock = clock
        self._last = clock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="jaxdp-stalls", daemon=True)

    def tick(self) -> None:
        """Adds the delay of a wake-up that was due `TICK_SECS` after the last one."""
        now = self._clock()
        delay, self._last = now - self._last - TICK_SECS, now
        if delay > TOLERANCE_SECS:
            self.secs += delay

    def _measure(self) -> None:
        while not self._stopping.wait(TICK_SECS):
            self.tick()

    def __enter__(self) -> "StallMeter":
        self._last = self._clock()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stopping.set()
        self._thread.join()
