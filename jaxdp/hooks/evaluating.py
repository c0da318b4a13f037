"""Evaluation hook: evaluates periodically and writes the metrics.

An evaluation that a request to stop interrupts counts as not made: the state is
saved without metrics, and the next start evaluates it first.
"""

from collections.abc import Callable, Mapping

from jaxdp.evaluation import EvaluationInterrupted
from jaxdp.hooks.every import Every
from jaxdp.state import TrainState
from jaxdp.trainer import Hook, StopTraining


class Evaluating(Hook):
    """Evaluates when due and keeps the last metrics for the checkpoint of the same step."""

    def __init__(
        self,
        every: Every,
        evaluate: Callable[[TrainState], Mapping[str, float]],
        write: Callable[[int, Mapping[str, float]], None],
        is_owed: Callable[[int], bool] = lambda step: False,
        record: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
    ):
        """Creates the hook.

        Args:
            every: Trigger of evaluations.
            evaluate: Function state -> metrics by full name.
            write: Function (step, metrics) -> None that writes the metrics.
            is_owed: Function step -> whether the evaluation of a restored step was interrupted;
                the same on all processes.
            record: Function (step, metrics) -> None that adds a late evaluation to its checkpoint.
        """
        self._every = every
        self._evaluate = evaluate
        self._write = write
        self._is_owed = is_owed
        self._record = record
        self._last: tuple[int, Mapping[str, float]] = (-1, {})

    def on_start(self, step: int, state: TrainState) -> None:
        """Evaluates a restored state whose evaluation was interrupted."""
        if self._every(step) and self._is_owed(step):
            self.on_state(step, state)
            self._record(*self._last)

    def wants_state(self, step: int) -> bool:
        """Returns True at the steps of the trigger."""
        return self._every(step)

    def on_state(self, step: int, state: TrainState) -> None:
        """Evaluates the state and writes its metrics."""
        try:
            self._last = (step, self._evaluate(state))
        except EvaluationInterrupted as left:
            raise StopTraining(left.request) from None
        self._write(*self._last)

    def last_at(self, step: int) -> Mapping[str, float]:
        """Returns the metrics of a step; empty if it was not evaluated."""
        return self._last[1] if self._last[0] == step else {}
