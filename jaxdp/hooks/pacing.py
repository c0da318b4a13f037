"""Slow process: each process sends its pace to process 0 at logging steps, and process 0 names the slowest."""

import time
from collections.abc import Callable

from jaxdp.hooks.every import Every
from jaxdp.metrics import PACE_METRICS
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.parallel.pace import MAX_IDLE_SHARE, MIN_EXCESS, Pace, Slowest, describe_slowest, find_slowest
from jaxdp.trainer import Hook, StepInfo

MIN_LINES = 2
"""Number of lines in a row in which a process must be too slow: one alone may have saved, or read from a cold disk."""

WARN_EVERY_LINES = 100
"""Number of lines between two warnings."""

_READ_SECS = 0.0005
"""Time to read metrics that are ready."""


class Pacing(Hook):
    """Measures the time in which the devices wait for this process, without a collective or a host synchronisation.

    The paces travel over the control plane and nobody waits for them, so a line has those of the line before.

    Attributes:
        metrics: `perf/slowest_*` by full name, for the next line; empty until all processes have sent a pace.
    """

    name, after, before = "pacing", ("watching", "recording"), ("logging",)

    def __init__(
        self,
        every: Every,
        control_plane: ControlPlane,
        stalled_secs: Callable[[], float],
        log: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Creates the hook.

        Args:
            every: Trigger of lines.
            control_plane: Control plane of several processes.
            stalled_secs: Returns the seconds in which the process was not executed; see `StallMeter`.
            log: Called with warnings.
            clock: Returns the time in seconds; replaced in tests.
        """
        self.metrics: dict[str, float] = {}
        self._every = every
        self._control_plane = control_plane
        self._stalled_secs, self._log, self._clock = stalled_secs, log, clock
        self._num_slow, self._slow_process = 0, -1
        self._lines_to_warning = 0
        self._restart()

    def _restart(self) -> None:
        self._steps, self._secs, self._late, self._data_wait, self._device_wait = 0, 0.0, 0.0, 0.0, 0.0
        self._begin, self._stalled_before = self._clock(), self._stalled_secs()

    def on_start(self, step: int, state: object) -> None:
        """Begins to measure with the first step."""
        self._restart()

    def on_step(self, info: StepInfo) -> None:
        """Adds the step; sends the pace, and judges those of all on process 0, when a line is due."""
        self._steps += 1
        self._secs += info.step_secs
        self._data_wait += info.queue.wait_secs
        self._device_wait += info.device_wait_secs
        if info.device_wait_secs <= max(_READ_SECS, MAX_IDLE_SHARE * info.step_secs):
            self._late += info.step_secs - info.device_wait_secs
        if self._every(info.step):
            pace, step_secs = self._pace(), self._secs / self._steps
            self._restart()
            self._control_plane.send_pace(list(pace))
            if self._control_plane.is_main_process:
                self._judge(pace, step_secs)

    def _pace(self) -> Pace:
        secs = max(self._secs, 1e-9)
        wall_secs = max(self._clock() - self._begin, 1e-9)
        return Pace(
            late=self._late / secs,
            data_wait=self._data_wait / secs,
            host=max(secs - self._data_wait - self._device_wait, 0.0) / secs,
            stalled=min((self._stalled_secs() - self._stalled_before) / wall_secs, 1.0),
        )

    def _judge(self, own: Pace, step_secs: float) -> None:
        paces = {**self._control_plane.paces(), self._control_plane.process_index: own}
        slowest = find_slowest(paces) if len(paces) == self._control_plane.num_processes else None
        if slowest is None:
            return
        self.metrics = {
            spec.full_name: value
            for spec, value in zip(PACE_METRICS, (slowest.process, slowest.excess, slowest.pace.data_wait), strict=True)
        }
        self._warn(slowest, step_secs)

    def _warn(self, slowest: Slowest, step_secs: float) -> None:
        """Warns about a process that was too slow in several lines, again after `WARN_EVERY_LINES` at the earliest."""
        self._lines_to_warning -= 1
        if slowest.excess <= MIN_EXCESS:
            self._num_slow = 0
            return
        self._num_slow = self._num_slow + 1 if slowest.process == self._slow_process else 1
        self._slow_process = slowest.process
        if self._num_slow >= MIN_LINES and self._lines_to_warning <= 0:
            self._lines_to_warning = WARN_EVERY_LINES
            host = self._control_plane.hosts[slowest.process]
            self._log(f"warning: {describe_slowest(slowest, host, step_secs)}")
