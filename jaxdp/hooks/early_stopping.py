"""Stops a run that no longer gets better."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxdp.hooks.every import Every
from jaxdp.state import TrainState
from jaxdp.trainer import Hook, Request


class EarlyStopping(Hook):
    """Asks all processes to stop when a metric has not improved for some evaluations.

    What it knows are the evaluations so far, and those are in metrics.jsonl: a run
    that resumes hands them over and goes on as if it had not been interrupted. One
    process that knows them is enough, as the request travels in the control word.
    It comes after the hook that evaluates. The step that is under way when the last
    evaluation is read, and one more, are still made.
    """

    def __init__(
        self,
        every: Every,
        metric: str,
        patience: int,
        evaluated: Callable[[int], Mapping[str, float]],
        history: Iterable[Mapping[str, Any]] = (),
        *,
        higher_is_better: bool = False,
    ):
        """
        Args:
            every: at which steps there is an evaluation.
            metric: full name, such as `eval/loss`.
            patience: evaluations without a new best value before it stops; 0: off.
            evaluated: metrics of the evaluation at this step; empty if there was none.
            history: earlier evaluations, {"step", metric: value} each, in order, other
                lines among them; null is what JSON has for a number that is not finite.
            higher_is_better: Direction of `metric`.
        """
        self._every, self._evaluated = every, evaluated
        self._metric, self._patience = metric, patience
        self._sign = -1.0 if higher_is_better else 1.0
        self._best, self._best_step, self._since, self._last_step = math.inf, None, 0, -1
        for line in history:
            if metric in line:
                self._count(line["step"], math.nan if line[metric] is None else line[metric])

    def _count(self, step: int, value: float) -> None:
        """Takes one evaluation; what is not finite is no improvement.

        One of the last steps, after the decision, changes nothing any more; nor does one that
        is made again, since the run was killed between its line and the checkpoint's record of it.
        """
        if self.is_exhausted or step <= self._last_step:
            return
        self._last_step = step
        if math.isfinite(value) and self._sign * value < self._best:
            self._best, self._best_step, self._since = self._sign * value, step, 0
        else:
            self._since += 1

    @property
    def is_exhausted(self) -> bool:
        """Whether the run has ended: also asked before one that resumes is begun."""
        return 0 < self._patience <= self._since

    def on_start(self, step: int, state: TrainState) -> None:
        """Counts the evaluation of the restored step, where it had been left and was made just now."""
        self.on_state(step, state)

    def request(self) -> int:
        return Request.EARLY_STOP if self.is_exhausted else Request.NONE

    def wants_state(self, step: int) -> bool:
        return self._every(step)

    def on_state(self, step: int, state: TrainState) -> None:
        metrics = self._evaluated(step)
        if self._metric in metrics:  # an evaluation can be left for something more urgent
            self._count(step, float(metrics[self._metric]))

    @property
    def message(self) -> str:
        """Why it stopped, for a person."""
        if self._best_step is None:
            return f"stopped early: {self._metric} was not finite in any of {self._since} evaluations"
        return (
            f"stopped early: the last {self._since} evaluations did not improve on {self._metric} "
            f"{self._sign * self._best:.4g} of step {self._best_step} (eval.patience={self._patience})"
        )
