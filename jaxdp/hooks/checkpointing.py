"""Checkpointing hook: triggers of saves, and the items saved with the train state."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from jaxdp.checkpoint.saving import CheckpointWriter
from jaxdp.hooks.evaluating import Evaluating
from jaxdp.hooks.every import Every
from jaxdp.hooks.preemption import Preemption
from jaxdp.report.terminal import print_status
from jaxdp.state import TrainState
from jaxdp.trainer import Hook, Request, StepInfo


class Checkpointing(Hook):
    """Saves at steps, at time intervals, after one of the best evaluations, and when the run stops.

    Clocks of processes differ, so a save by time is requested in the control word of
    a step and made once all processes have agreed. This hook runs after the one that
    evaluates.
    """

    name, phase = "checkpointing", "saving a checkpoint"
    after = ("evaluating",)  # the checkpoint records the evaluation of the same step

    def __init__(
        self,
        writer: CheckpointWriter,
        every: Every,
        data_state: Callable[[int], Mapping[str, Any]],
        config: Mapping[str, Any],
        evaluating: Evaluating | None = None,
        *,
        is_best: Callable[[int, Mapping[str, float]], bool] | None = None,
        minutes: float = 0.0,
        preemption: Preemption | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Creates the hook.

        Args:
            writer: Writer of checkpoints.
            every: Trigger of saves.
            data_state: Function step -> position of the data after that number of batches.
            config: Resolved configuration.
            evaluating: Hook that evaluates; None: nothing is evaluated.
            is_best: Function (step, metrics) -> whether the evaluation is one of the best so far,
                so that its state must be saved; the same on all processes; called once an evaluation.
                None: the best states are not saved.
            minutes: Time between saves in minutes; 0: no saves by time.
            preemption: Hook that knows the seconds until the process will be killed; None: unknown.
            clock: Returns the time in seconds; replaced in tests.
        """
        self._writer = writer
        self._every = every
        self._data_state = data_state
        self._config = config
        self._evaluating = evaluating
        self._is_best = is_best
        self._secs = 60.0 * minutes
        self._preemption = preemption
        self._clock = clock
        self._last_time = clock()
        self._agreed = False
        self._first_step = -1

    def on_start(self, step: int, state: TrainState) -> None:
        """Counts the evaluation of the restored state, with which later ones are compared."""
        self._first_step = step
        self._has_new_best(step)

    def request(self) -> int:
        """Returns `Request.SAVE` when a save by time is due."""
        overdue = self._secs > 0 and self._clock() - self._last_time >= self._secs
        return Request.SAVE if overdue else Request.NONE

    def on_step(self, info: StepInfo) -> None:
        """Surfaces the failure of an earlier save and reads the agreed request."""
        self._writer.check()
        self._agreed |= int(info.metrics["request"]) == Request.SAVE

    def wants_state(self, step: int) -> bool:
        """Returns True if the state after this step may be saved."""
        return self._agreed or self._every(step) or self._is_candidate(step)

    def on_state(self, step: int, state: TrainState) -> None:
        """Saves the state if a trigger is due."""
        is_best = self._has_new_best(step)
        if is_best or self._agreed or self._every(step):
            self._save(step, state)

    def _is_candidate(self, step: int) -> bool:
        """Returns whether the evaluation of this step may be among the best."""
        return self._is_best is not None and self._evaluating is not None and self._evaluating.wants_state(step)

    def _evaluated(self, step: int) -> Mapping[str, float]:
        return self._evaluating.last_at(step) if self._evaluating else {}

    def _has_new_best(self, step: int) -> bool:
        metrics, is_best = self._evaluated(step), self._is_best
        return bool(metrics) and is_best is not None and self._is_candidate(step) and is_best(step, metrics)

    def _save(self, step: int, state: TrainState) -> None:
        self._writer.save(step, state, self._data_state(step), self._config, self._evaluated(step))
        self._last_time, self._agreed = self._clock(), False

    def on_stop(self, step: int, state: TrainState) -> None:
        """Saves the last state if the remaining time suffices, and waits for the writer."""
        needed, remaining = (
            self._writer.longest_save_secs,
            self._preemption.remaining_secs() if self._preemption else math.inf,
        )
        if step == self._first_step:
            pass  # the state is the restored one
        elif self._writer.decide(needed > remaining):
            print_status(
                f"the state after step {step} is not saved: a save of this run takes up to {needed:.1f} s, and "
                f"{max(remaining, 0.0):.1f} s are left of checkpoint.grace_secs; the checkpoint before stays the last"
            )
        else:
            self._save(step, state)
        self._writer.wait()
