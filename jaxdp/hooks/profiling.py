"""Profiling hook: a trace of some steps for TensorBoard or Perfetto."""

from collections.abc import Callable
from pathlib import Path

import jax

from jaxdp.state import TrainState
from jaxdp.trainer import Hook


class Profiling(Hook):
    """Traces `num_steps` steps after step `after_step` (at least 1) into a directory."""

    name, after, phase = "profiling", ("checkpointing", "early_stopping"), "profiling"

    def __init__(
        self,
        directory: Path,
        after_step: int,
        num_steps: int,
        log: Callable[[str], None],
        check_place: Callable[[], None] = lambda: None,
    ):
        """Creates the hook.

        Args:
            directory: Directory of the trace.
            after_step: Step after which the trace begins.
            num_steps: Number of steps to trace.
            log: Called with a sentence once the trace is written.
            check_place: Called before the trace is written; raises to prevent it.
        """
        self._directory, self._log, self._check_place = directory, log, check_place
        self._start, self._end = after_step, after_step + num_steps
        self._running = False

    def wants_state(self, step: int) -> bool:
        """Returns True at the first and the last step of the trace."""
        return step in (self._start, self._end)

    def on_state(self, step: int, state: TrainState) -> None:
        """Starts or ends the trace."""
        jax.block_until_ready(state)
        if step == self._start:
            jax.profiler.start_trace(self._directory)
            self._running = True
        else:
            self._finish()

    def on_stop(self, step: int, state: TrainState) -> None:
        """Ends a trace that the end of the run interrupts."""
        self._finish()

    def _finish(self) -> None:
        if self._running:
            self._running = False
            self._check_place()
            jax.profiler.stop_trace()
            self._log(f"profile written to {self._directory} (tensorboard --logdir, or ui.perfetto.dev)")
