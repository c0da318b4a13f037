"""Slow process: each process sends its pace to process 0 at logging steps, and process 0 names the slowest."""

import time
from collections.abc import Callable, Mapping

from jaxdp.hooks.every import Every
from jaxdp.metrics import PACE_METRICS
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.parallel.pace import MAX_IDLE_SHARE, Pace, Slowest, describe_slowest, find_slowest, is_slow, mean_paces
from jaxdp.trainer import Hook, StepInfo

WINDOW_SECS = 2.0
"""Shortest time over which paces are averaged before a warning: within one line of short steps, the scheduling of a busy
machine alone costs a process up to a third of the time."""

MIN_WINDOWS = 2
"""Number of windows in a row in which a process must be too slow: one alone may have saved, or read from a cold disk."""

WARN_EVERY_WINDOWS = 100
"""Number of windows between two warnings."""

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
        self._windows_to_warning = 0
        self._window: list[tuple[float, Mapping[int, Pace]]] = []
        self._window_steps = 0
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
            pace, steps, secs = self._pace(), self._steps, self._secs
            self._restart()
            self._control_plane.send_pace(list(pace))
            if self._control_plane.is_main_process:
                self._judge(pace, steps, secs)

    def _pace(self) -> Pace:
        secs = max(self._secs, 1e-9)
        wall_secs = max(self._clock() - self._begin, 1e-9)
        return Pace(
            late=self._late / secs,
            data_wait=self._data_wait / secs,
            host=max(secs - self._data_wait - self._device_wait, 0.0) / secs,
            stalled=min((self._stalled_secs() - self._stalled_before) / wall_secs, 1.0),
        )

    def _judge(self, own: Pace, steps: int, secs: float) -> None:
        paces = {**self._control_plane.paces(), self._control_plane.process_index: own}
        slowest = find_slowest(paces) if len(paces) == self._control_plane.num_processes else None
        if slowest is None:
            return
        self.metrics = {
            spec.full_name: value
            for spec, value in zip(PACE_METRICS, (slowest.process, slowest.excess, slowest.pace.data_wait), strict=True)
        }
        self._window.append((max(secs, 1e-9), paces))
        self._window_steps += steps
        window_secs = sum(secs for secs, _ in self._window)
        if window_secs >= WINDOW_SECS:
            in_window = find_slowest(mean_paces(self._window))
            assert in_window is not None, "a line has the paces of all processes"
            self._warn(in_window, window_secs / self._window_steps)
            self._window, self._window_steps = [], 0

    def _warn(self, slowest: Slowest, step_secs: float) -> None:
        """Warns about a process that was too slow in several windows, again after `WARN_EVERY_WINDOWS` at the earliest."""
        self._windows_to_warning -= 1
        if not is_slow(slowest, step_secs):
            self._num_slow = 0
            return
        self._num_slow = self._num_slow + 1 if slowest.process == self._slow_process else 1
        self._slow_process = slowest.process
        if self._num_slow >= MIN_WINDOWS and self._windows_to_warning <= 0:
            self._windows_to_warning = WARN_EVERY_WINDOWS
            host = self._control_plane.hosts[slowest.process]
            self._log(f"warning: {describe_slowest(slowest, host, step_secs)}")
