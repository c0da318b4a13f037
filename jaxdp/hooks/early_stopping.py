"""Early stopping: stops a run whose evaluation metric no longer improves."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxdp.hooks.every import Every
from jaxdp.state import TrainState
from jaxdp.trainer import Hook, Request


class EarlyStopping(Hook):
    """Requests all processes to stop when a metric has not improved for `patience` evaluations.

    Its state is the history of evaluations in metrics.jsonl, so a resumed run behaves
    as if it had not been interrupted. One process that reads the history is enough,
    since the request travels in the control word. This hook runs after the one that
    evaluates. Up to two more steps run after the deciding evaluation.
    """

    name, after = "early_stopping", ("evaluating", "checkpointing")

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
        """Creates the hook.

        Args:
            every: Trigger of evaluations.
            metric: Full name of the metric, e.g. "eval/loss".
            patience: Number of evaluations without a new best value before the run stops; 0: off.
            evaluated: Function step -> metrics of its evaluation; empty if there was none.
            history: Lines of metrics.jsonl, {"step", metric: value} each, in order; lines without
                the metric are skipped, null is a number that is not finite.
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
        """Counts one evaluation; a value that is not finite is no improvement.

        Evaluations after the decision are ignored, and so are repeated ones, which occur
        after a kill between the line in metrics.jsonl and its record in the checkpoint.
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
        """True if the patience is used up; also checked before a run is resumed."""
        return 0 < self._patience <= self._since

    def on_start(self, step: int, state: TrainState) -> None:
        """Counts the evaluation of the restored step, if it was interrupted and has just been made."""
        self.on_state(step, state)

    def request(self) -> int:
        """Returns `Request.EARLY_STOP` once the patience is used up."""
        return Request.EARLY_STOP if self.is_exhausted else Request.NONE

    def wants_state(self, step: int) -> bool:
        """Returns True at the steps of the trigger."""
        return self._every(step)

    def on_state(self, step: int, state: TrainState) -> None:
        """Counts the evaluation of this step."""
        metrics = self._evaluated(step)
        if self._metric in metrics:  # missing if the evaluation was interrupted
            self._count(step, float(metrics[self._metric]))

    @property
    def message(self) -> str:
        """Reason of the stop, for the terminal."""
        if self._best_step is None:
            return f"stopped early: {self._metric} was not finite in any of {self._since} evaluations"
        return (
            f"stopped early: the last {self._since} evaluations did not improve on {self._metric} "
            f"{self._sign * self._best:.4g} of step {self._best_step} (eval.patience={self._patience})"
        )
