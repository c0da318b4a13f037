"""Gives a run up whose updates stay bad: not finite, or a spike of the loss."""

import math

from jaxdp.trainer import AbortTraining, Hook, StepInfo


class Diverged(AbortTraining):
    """Too many updates in a row were skipped.

    Attributes:
        first_step: the first of them.
        num_steps: how many there are, always the limit.
        is_finite: whether the last one had a finite loss and gradient, so that it
            was skipped as a spike.
    """

    def __init__(self, first_step: int, num_steps: int, is_finite: bool):
        super().__init__(f"{num_steps} updates from step {first_step} on were skipped")
        self.first_step, self.num_steps, self.is_finite = first_step, num_steps, is_finite


class Divergence(Hook):
    """Raises Diverged after too many skipped updates in a row; on every process alike."""

    def __init__(self, max_skipped_in_a_row: int):
        self._limit = max_skipped_in_a_row

    def on_step(self, info: StepInfo) -> None:
        in_a_row = int(info.metrics["skipped_in_a_row"])
        if in_a_row >= self._limit:
            is_finite = all(math.isfinite(info.metrics[name]) for name in ("loss", "grad_norm"))
            raise Diverged(info.step - in_a_row + 1, self._limit, is_finite)
