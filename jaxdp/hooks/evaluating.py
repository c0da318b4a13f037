"""When to evaluate, and where the result goes.

An evaluation that is left for a request to stop counts as not made: the state
is saved without it, and a start from there makes it first.
"""

from collections.abc import Callable, Mapping

from jaxdp.evaluation import EvaluationInterrupted
from jaxdp.hooks.every import Every
from jaxdp.state import TrainState
from jaxdp.trainer import Hook, StopTraining


class Evaluating(Hook):
    """Evaluates when due; remembers the last result for the checkpoint of the same step."""

    def __init__(
        self,
        every: Every,
        evaluate: Callable[[TrainState], Mapping[str, float]],
        write: Callable[[int, Mapping[str, float]], None],
        is_owed: Callable[[int], bool] = lambda step: False,
        record: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
    ):
        """
        Args:
            every: when.
            evaluate: state -> metrics by full name.
            write: (step, metrics) -> None.
            is_owed: whether the evaluation of a restored step was left; alike on all processes.
            record: (step, metrics) -> None: adds one made late to the checkpoint.
        """
        self._every = every
        self._evaluate = evaluate
        self._write = write
        self._is_owed = is_owed
        self._record = record
        self._last: tuple[int, Mapping[str, float]] = (-1, {})

    def on_start(self, step: int, state: TrainState) -> None:
        if self._every(step) and self._is_owed(step):
            self.on_state(step, state)
            self._record(*self._last)

    def wants_state(self, step: int) -> bool:
        return self._every(step)

    def on_state(self, step: int, state: TrainState) -> None:
        try:
            self._last = (step, self._evaluate(state))
        except EvaluationInterrupted as left:
            raise StopTraining(left.request) from None
        self._write(*self._last)

    def last_at(self, step: int) -> Mapping[str, float]:
        """The metrics of this step; empty if it was not evaluated."""
        return self._last[1] if self._last[0] == step else {}
