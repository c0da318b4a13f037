"""What the watchdog is told by the loop: steps that finish, and phases between them."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from jaxdp.state import TrainState
from jaxdp.trainer import Hook, StepInfo
from jaxdp.watchdog import Watchdog


class Watching(Hook):
    """Every finished step is progress."""

    def __init__(self, watchdog: Watchdog):
        self._watchdog = watchdog

    def on_step(self, info: StepInfo) -> None:
        self._watchdog.step_finished(info.step, info.step_secs)


class InPhase(Hook):
    """A hook whose work on the state is a phase of its own."""

    def __init__(self, hook: Hook, phase: Callable[[], AbstractContextManager]):
        """
        Args:
            hook: what is done.
            phase: enters the phase, such as `lambda: watchdog.phase("evaluating")`.
        """
        self._hook = hook
        self._phase = phase

    def on_start(self, step: int, state: TrainState) -> None:
        with self._phase():
            self._hook.on_start(step, state)

    def request(self) -> int:
        return self._hook.request()

    def on_dispatch(self, step: int, state: TrainState) -> None:
        self._hook.on_dispatch(step, state)

    def on_step(self, info: StepInfo) -> None:
        self._hook.on_step(info)

    def wants_state(self, step: int) -> bool:
        return self._hook.wants_state(step)

    def on_state(self, step: int, state: TrainState) -> None:
        with self._phase():
            self._hook.on_state(step, state)

    def on_stop(self, step: int, state: TrainState) -> None:
        with self._phase():
            self._hook.on_stop(step, state)
