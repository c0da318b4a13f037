"""What to do about a run whose updates stay bad: go back without the batches that spoiled it, or give up.

Skipped updates leave the parameters as they are, so leaving out the skipped
batches alone would lead to the same parameters and the same end. As many
batches before them go too: with one of these the parameters took the turn after
which nothing was finite. So going back is to a checkpoint from before all of them.

Source: Chowdhery et al. 2022, PaLM, section 5.1: restart from before the spike
and skip the batches seen before and during it; the same batches do no harm from
other parameters.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxdp.checkpoint.manifest import committed_steps
from jaxdp.data.pipeline import check_data_state
from jaxdp.errors import TrainingDiverged
from jaxdp.hooks.divergence import Diverged
from jaxdp.report.terminal import print_status
from jaxdp.training.diagnosis import diagnose
from jaxdp.training.setup import TrainingSetup
from jaxdp.typing import PyTree


class Rollbacks:
    """How often a run has gone back, and what it leaves out since; kept in its checkpoints.

    What is left out is known from the batches alone. So it does not matter which
    of several checkpoints a run goes back to, nor whether it is killed on the
    way: started again from a checkpoint that does not know yet, it meets the same
    batches and leaves out the same.
    """

    def __init__(self, setup: TrainingSetup, checkpoints: Path):
        self._setup, self._checkpoints = setup, checkpoints
        self._optim = setup.config.optim
        self._count = 0

    def data_state(self, step: int) -> dict[str, Any]:
        """Position of the data after `step` batches, as a checkpoint records it."""
        count = {"rollbacks": self._count} if self._count else {}
        return self._setup.loader.data_state(step) | count

    def load_state(self, saved: Mapping[str, Any], step: int) -> None:
        """Takes over what a checkpoint's data state says beside the position.

        Raises:
            UserError: the checkpoint was trained on other data.
        """
        own = ("exclusions", "rollbacks", "position")
        states = (saved, self._setup.loader.data_state(step))
        check_data_state(*({key: state[key] for key in state if key not in own} for state in states))
        self._setup.loader.load_state({key: saved[key] for key in saved if key != "rollbacks"})
        self._count = max(self._count, saved.get("rollbacks", 0))

    def leave_out(self, diverged: Diverged, params: PyTree) -> int:
        """Leaves the batches out that spoiled the run.

        Args:
            diverged: the bad updates.
            params: the parameters, which they left as they were.

        Returns:
            The step that a checkpoint to go back to may have at most.

        Raises:
            TrainingDiverged: that was done as often as it may be.
        """
        if self._count >= self._optim.max_rollbacks or not self._setup.loader.can_exclude:
            raise self._gave_up(diverged, params)
        batches = spoiled_batches(diverged)
        slots = self._setup.loader.slots(batches)
        self._setup.loader.exclude(slots)
        self._count += 1
        print_status(
            f"{self._described(diverged)}: going back to before step {batches.start + 1} and leaving out batches "
            f"{slots[0]} to {slots[-1]} of the data (rollback {self._count} of {self._optim.max_rollbacks}, "
            "optim.max_rollbacks)"
        )
        return batches.start

    def _described(self, diverged: Diverged) -> str:
        what = (
            f"a loss above {self._optim.spike_factor} times its running mean (optim.spike_factor)"
            if diverged.is_finite
            else "a non-finite loss or gradient"
        )
        last = diverged.first_step + diverged.num_steps - 1
        return f"the updates of steps {diverged.first_step} to {last} had {what} and were skipped"

    def _gave_up(self, diverged: Diverged, params: PyTree) -> TrainingDiverged:
        if not self._setup.loader.can_exclude:
            return TrainingDiverged(
                f"training diverged: {self._described(diverged)}, and a stream cannot leave its batches out. "
                f"{self._good_checkpoints()} RunContext a new run with a lower optim.learning_rate, a longer optim.warmup_steps "
                "or a lower optim.clip_norm, or prepare the data (data.source=hf)."
            )
        try:
            found = str(diagnose(self._setup, params, diverged.first_step - 1))
        except jax.errors.JaxRuntimeError as error:  # it may need more memory than the step
            found = f"it could not be computed again to find out more ({' '.join(str(error).split())[:200]})"
        return TrainingDiverged(
            f"training diverged: {self._described(diverged)}, and the {self._optim.max_rollbacks} rollbacks of "
            f"optim.max_rollbacks are used up. The batch of step {diverged.first_step}: {found}. "
            f"{self._good_checkpoints()} Fix the data where rows alone are named; else start a new run with a lower optim.learning_rate, "
            "a longer optim.warmup_steps or a lower optim.clip_norm."
        )

    def _good_checkpoints(self) -> str:
        """What is left of the run."""
        steps = committed_steps(self._checkpoints)
        if not steps:
            return "No checkpoint was saved before that."
        return f"The checkpoints in {self._checkpoints} are good ({', '.join(map(str, steps))})."


def spoiled_batches(diverged: Diverged) -> range:
    """The batches to leave out, by number: those skipped, and as many before."""
    first = diverged.first_step - 1  # update n reads batch n - 1
    return range(max(first - diverged.num_steps, 0), first + diverged.num_steps)
