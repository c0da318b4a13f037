"""Stops a run whose updates stay non-finite."""

from jaxdp.errors import TrainingDiverged
from jaxdp.state import StepInfo
from jaxdp.trainer import Hook


class Divergence(Hook):
    """Raises TrainingDiverged after too many skipped updates in a row."""

    def __init__(self, max_skipped_in_a_row: int):
        self._limit = max_skipped_in_a_row

    def on_step(self, info: StepInfo) -> None:
        in_a_row = int(info.metrics["skipped_in_a_row"])
        if in_a_row >= max(self._limit, 1):
            raise TrainingDiverged(
                f"training diverged: the last {in_a_row} updates up to step {info.step} had a non-finite loss or "
                f"gradient and were skipped; the checkpoints before step {info.step - in_a_row + 1} are good. "
                "Lower optim.learning_rate, lengthen optim.warmup_steps or lower optim.clip_norm."
            )
