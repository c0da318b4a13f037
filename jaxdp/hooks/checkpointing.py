"""When to save, and what goes into a checkpoint beside the state."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from jaxdp.checkpoint.saving import CheckpointWriter
from jaxdp.hooks.every import Every
from jaxdp.state import TrainState
from jaxdp.trainer import Hook, Request, StepInfo


class Checkpointing(Hook):
    """Saves at steps, by the clock, after an evaluation that is one of the best, and when the run stops.

    Clocks of processes differ, so a save by the clock is requested in the step's
    control word and made when all have agreed on it. The hook that evaluates comes before.
    """

    def __init__(
        self,
        writer: CheckpointWriter,
        every: Every,
        data_state: Callable[[int], Mapping[str, Any]],
        config: Mapping[str, Any],
        evaluated: Callable[[int], Mapping[str, float]],
        *,
        evaluations: Callable[[int], bool] = lambda step: False,
        is_best: Callable[[int, Mapping[str, float]], bool] = lambda step, metrics: False,
        minutes: float = 0.0,
        remaining_secs: Callable[[], float] = lambda: math.inf,
        log: Callable[[str], None] = lambda sentence: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """
        Args:
            writer: where the states go.
            every: at which steps.
            data_state: position of the data after so many batches.
            config: the resolved configuration.
            evaluated: metrics of the evaluation at this step; empty if there was none.
            evaluations: at which steps there is one that may be among the best.
            is_best: (step, metrics) -> whether it is one of the best so far, to be saved
                wherever it comes; alike on all processes; told of each evaluation once.
            minutes: time between saves; 0: not by the clock.
            remaining_secs: until the process will be killed, as far as is known.
            log: told when there is no time for the last save.
            clock: seconds; replaced in tests.
        """
        self._writer = writer
        self._every = every
        self._data_state = data_state
        self._config = config
        self._evaluated = evaluated
        self._evaluations = evaluations
        self._is_best = is_best
        self._secs = 60.0 * minutes
        self._remaining_secs = remaining_secs
        self._log = log
        self._clock = clock
        self._last_time = clock()
        self._agreed = False
        self._first_step = -1

    def on_start(self, step: int, state: TrainState) -> None:
        self._first_step = step
        self._has_new_best(step)  # it is saved; what comes later is compared with it

    def request(self) -> int:
        overdue = self._secs > 0 and self._clock() - self._last_time >= self._secs
        return Request.SAVE if overdue else Request.NONE

    def on_step(self, info: StepInfo) -> None:
        self._writer.check()
        self._agreed |= int(info.metrics["request"]) == Request.SAVE

    def wants_state(self, step: int) -> bool:
        return self._agreed or self._every(step) or self._evaluations(step)

    def on_state(self, step: int, state: TrainState) -> None:
        is_best = self._has_new_best(step)
        if is_best or self._agreed or self._every(step):
            self._save(step, state)

    def _has_new_best(self, step: int) -> bool:
        metrics = self._evaluated(step)
        return bool(metrics) and self._evaluations(step) and self._is_best(step, metrics)

    def _save(self, step: int, state: TrainState) -> None:
        self._writer.save(
            step, state, self._data_state(step), self._config, self._evaluated(step)
        )
        self._last_time, self._agreed = self._clock(), False

    def on_stop(self, step: int, state: TrainState) -> None:
        needed, remaining = self._writer.longest_save_secs, self._remaining_secs()
        if step == self._first_step:
            pass  # nothing has changed
        elif needed > remaining:
            self._log(
                f"the state after step {step} is not saved: a save of this run takes up to {needed:.1f} s, and "
                f"{max(remaining, 0.0):.1f} s are left of checkpoint.grace_secs; the checkpoint before stays the last"
            )
        else:
            self._save(step, state)
        self._writer.wait()
