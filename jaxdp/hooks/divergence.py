"""Divergence detection: aborts training after too many skipped updates in a row."""

import math

from jaxdp.trainer import AbortTraining, Hook, StepInfo


class Diverged(AbortTraining):
    """Raised after too many skipped updates in a row.

    Attributes:
        first_step: First skipped step of the row.
        num_steps: Number of skipped steps, always the limit.
        is_finite: Whether the last skipped update had a finite loss and gradient, so that
            it was skipped as a loss spike.
    """

    def __init__(self, first_step: int, num_steps: int, is_finite: bool):
        super().__init__(f"{num_steps} updates from step {first_step} on were skipped")
        self.first_step, self.num_steps, self.is_finite = first_step, num_steps, is_finite


class Divergence(Hook):
    """Raises `Diverged` after too many skipped updates in a row, on all processes at the same step."""

    name, after = "divergence", ("logging",)  # the line of the last step is written before the run is aborted

    def __init__(self, max_skipped_in_a_row: int):
        self._limit = max_skipped_in_a_row

    def on_step(self, info: StepInfo) -> None:
        """Raises `Diverged` if the limit is reached."""
        in_a_row = int(info.metrics["skipped_in_a_row"])
        if in_a_row >= self._limit:
            is_finite = all(math.isfinite(info.metrics[name]) for name in ("loss", "grad_norm"))
            raise Diverged(info.step - in_a_row + 1, self._limit, is_finite)
