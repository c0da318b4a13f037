"""When to evaluate, and where the result goes."""

from collections.abc import Callable, Mapping

from jaxdp.hooks.every import Every
from jaxdp.state import TrainState
from jaxdp.trainer import Hook


class Evaluating(Hook):
    """Evaluates when due; remembers the last result for the checkpoint of the same step."""

    def __init__(
        self,
        every: Every,
        evaluate: Callable[[TrainState], Mapping[str, float]],
        write: Callable[[int, Mapping[str, float]], None],
    ):
        """
        Args:
            every: when.
            evaluate: state -> metrics by full name.
            write: (step, metrics) -> None.
        """
        self._every = every
        self._evaluate = evaluate
        self._write = write
        self._last: tuple[int, Mapping[str, float]] = (-1, {})

    def wants_state(self, step: int) -> bool:
        return self._every(step)

    def on_state(self, step: int, state: TrainState) -> None:
        self._last = (step, self._evaluate(state))
        self._write(*self._last)

    def last_at(self, step: int) -> Mapping[str, float]:
        """The metrics of this step; empty if it was not evaluated."""
        return self._last[1] if self._last[0] == step else {}
