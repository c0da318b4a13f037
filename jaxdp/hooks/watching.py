"""Watchdog hooks: report finished steps, and phases between steps, to the watchdog."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TypeVar

from jaxdp.arguments import shown
from jaxdp.errors import UserError
from jaxdp.hooks.order import hook_name
from jaxdp.state import TrainState
from jaxdp.trainer import Hook, Request, StepInfo
from jaxdp.watchdog import Watchdog

Kind = TypeVar("Kind", bound=Hook)


class Watching(Hook):
    """Reports every finished step to the watchdog."""

    name, after = "watching", ("preemption",)

    def __init__(self, watchdog: Watchdog):
        self._watchdog = watchdog

    def on_step(self, info: StepInfo) -> None:
        """Reports the step."""
        self._watchdog.step_finished(info.step, info.step_secs)


class InPhase(Hook):
    """Wrapper of a hook whose work on the state is a watchdog phase.

    Attributes:
        hook: Wrapped hook.
        stops_early: Whether it has requested `Request.EARLY_STOP`.
    """

    def __init__(self, hook: Hook, watchdog: Watchdog):
        """Creates the hook.

        Args:
            hook: Wrapped hook; its `phase` names the phase.
            watchdog: Watchdog of the run.
        """
        self.hook = hook
        self.stops_early = False
        self._watchdog = watchdog

    def _phase(self) -> AbstractContextManager:
        return self._watchdog.phase(self.hook.phase or f"in the hook {hook_name(self.hook)}")

    def on_start(self, step: int, state: TrainState) -> None:
        """Calls the hook inside the phase."""
        with self._phase():
            self.hook.on_start(step, state)

    def request(self) -> int:
        """Returns the request of the hook.

        Raises:
            UserError: It is no `Request`.
        """
        request = self.hook.request()
        if isinstance(request, bool) or not isinstance(request, int) or request not in tuple(Request):
            raise UserError(
                f"request() of the hook {hook_name(self.hook)} must return a jaxdp.Request, such as Request.NONE or "
                f"Request.EARLY_STOP, found {shown(request)}."
            )
        self.stops_early |= request == Request.EARLY_STOP
        return request

    def on_dispatch(self, step: int, state: TrainState) -> None:
        """Calls the hook."""
        self.hook.on_dispatch(step, state)

    def on_step(self, info: StepInfo) -> None:
        """Calls the hook."""
        self.hook.on_step(info)

    def wants_state(self, step: int) -> bool:
        """Returns the answer of the hook."""
        return self.hook.wants_state(step)

    def on_state(self, step: int, state: TrainState) -> None:
        """Calls the hook inside the phase."""
        with self._phase():
            self.hook.on_state(step, state)

    def on_stop(self, step: int, state: TrainState) -> None:
        """Calls the hook inside the phase."""
        with self._phase():
            self.hook.on_stop(step, state)


def early_stoppers(hooks: Iterable[Hook]) -> list[str]:
    """Returns the names of the user's hooks that have requested this process to stop early."""
    return [hook_name(hook.hook) for hook in hooks if isinstance(hook, InPhase) and hook.stops_early]


def find_hook(hooks: Iterable[Hook], kind: type[Kind]) -> Kind | None:
    """Returns the first hook of a class, wrapped or not; None if there is none."""
    bare = (hook.hook if isinstance(hook, InPhase) else hook for hook in hooks)
    return next((hook for hook in bare if isinstance(hook, kind)), None)
