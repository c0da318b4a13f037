"""Evaluation hook: evaluates periodically and writes the metrics.

An evaluation that a request to stop interrupts counts as not made: the state is
saved without metrics, and the next start evaluates it first.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxdp.checkpoint.manifest import record_metrics, require_manifest
from jaxdp.checkpoint.retention import CheckPlace
from jaxdp.evaluation import EvaluationInterrupted
from jaxdp.hooks.every import Every
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.state import TrainState
from jaxdp.trainer import Hook, Request, StepInfo, StopTraining


class LateEvaluations:
    """Evaluations that a stop interrupted, found and recorded in the checkpoints of their steps."""

    def __init__(self, checkpoints: Path, control_plane: ControlPlane, check_place: CheckPlace):
        """Creates the record.

        Args:
            checkpoints: Directory of the checkpoints.
            control_plane: Control plane of the run's processes; the main process reads and writes.
            check_place: Called before a checkpoint is changed; raises to prevent it.
        """
        self._checkpoints, self._control_plane, self._check_place = checkpoints, control_plane, check_place

    def is_owed(self, step: int) -> bool:
        """Returns True if the checkpoint of this step lacks its evaluation; the same on all processes."""
        is_main = self._control_plane.is_main_process
        return self._control_plane.broadcast(
            is_main and step > 0 and not require_manifest(self._checkpoints / str(step)).metrics
        )

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the evaluation to the checkpoint."""
        if self._control_plane.is_main_process:
            self._check_place()
            record_metrics(self._checkpoints / str(step), metrics)


class Evaluating(Hook):
    """Evaluates when due and keeps the last metrics for the checkpoint of the same step."""

    name, after, phase = "evaluating", ("divergence",), "evaluating"

    def __init__(
        self,
        every: Every,
        evaluate: Callable[[TrainState], Mapping[str, float]],
        write: Callable[[int, Mapping[str, float]], None],
        late: LateEvaluations | None = None,
        evaluates_stop: Callable[[], bool] = lambda: False,
    ):
        """Creates the hook.

        Args:
            every: Trigger of evaluations.
            evaluate: Function state -> metrics by full name.
            write: Function (step, metrics) -> None that writes the metrics.
            late: Record of restored steps whose evaluation was interrupted; None: there are none.
            evaluates_stop: Returns whether to evaluate the last state of a run that `Request.EARLY_STOP` ends; the
                same on all processes.
        """
        self._every = every
        self._evaluate = evaluate
        self._write = write
        self._late = late
        self._evaluates_stop = evaluates_stop
        self._stops_early = False
        self._last: tuple[int, Mapping[str, float]] = (-1, {})

    def on_start(self, step: int, state: TrainState) -> None:
        """Evaluates a restored state whose evaluation was interrupted."""
        if self._late and self._every(step) and self._late.is_owed(step):
            self.on_state(step, state)
            self._late.record(*self._last)

    def on_step(self, info: StepInfo) -> None:
        """Reads the agreed request."""
        self._stops_early |= int(info.metrics["request"]) == Request.EARLY_STOP

    def on_stop(self, step: int, state: TrainState) -> None:
        """Evaluates the last state of a run that a user's hook ends; a request meanwhile leaves it without metrics."""
        if self._stops_early and self._last[0] != step and self._evaluates_stop():
            with contextlib.suppress(StopTraining):
                self.on_state(step, state)

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

    @property
    def last(self) -> Mapping[str, float]:
        """Metrics of the last evaluation; empty if there was none."""
        return self._last[1]
