"""Watchdog hooks: report finished steps, and phases between steps, to the watchdog."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from jaxdp.state import TrainState
from jaxdp.trainer import Hook, StepInfo
from jaxdp.watchdog import Watchdog


class Watching(Hook):
    """Reports every finished step to the watchdog."""

    def __init__(self, watchdog: Watchdog):
        self._watchdog = watchdog

    def on_step(self, info: StepInfo) -> None:
        """Reports the step."""
        self._watchdog.step_finished(info.step, info.step_secs)


class InPhase(Hook):
    """Wrapper of a hook whose work on the state is a watchdog phase."""

    def __init__(self, hook: Hook, phase: Callable[[], AbstractContextManager]):
        """Creates the hook.

        Args:
            hook: Wrapped hook.
            phase: Function that returns the phase, e.g. `lambda: watchdog.phase("evaluating")`.
        """
        self._hook = hook
        self._phase = phase

    def on_start(self, step: int, state: TrainState) -> None:
        """Calls the hook inside the phase."""
        with self._phase():
            self._hook.on_start(step, state)

    def request(self) -> int:
        """Returns the request of the hook."""
        return self._hook.request()

    def on_dispatch(self, step: int, state: TrainState) -> None:
        """Calls the hook."""
        self._hook.on_dispatch(step, state)

    def on_step(self, info: StepInfo) -> None:
        """Calls the hook."""
        self._hook.on_step(info)

    def wants_state(self, step: int) -> bool:
        """Returns the answer of the hook."""
        return self._hook.wants_state(step)

    def on_state(self, step: int, state: TrainState) -> None:
        """Calls the hook inside the phase."""
        with self._phase():
            self._hook.on_state(step, state)

    def on_stop(self, step: int, state: TrainState) -> None:
        """Calls the hook inside the phase."""
        with self._phase():
            self._hook.on_stop(step, state)
