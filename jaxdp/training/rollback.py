"""Divergence recovery: roll back to an earlier checkpoint and skip the offending batches, or abort.

Skipped updates leave the parameters unchanged, so excluding the skipped batches alone would lead to the same
parameters and the same end. As many batches before them are excluded too, since one of these led to the
parameters after which nothing was finite. The run continues from a checkpoint before all of them.

Source: Chowdhery et al. 2022, PaLM, section 5.1: restart from before the spike
and skip the batches seen before and during it; the same batches do no harm from
other parameters.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxdp.checkpoint.manifest import committed_steps
from jaxdp.data.loader import IndexedLoader
from jaxdp.data.pipeline import check_data_state
from jaxdp.errors import TrainingDiverged
from jaxdp.hooks.divergence import Diverged
from jaxdp.report.terminal import print_status
from jaxdp.state import TrainState
from jaxdp.training.diagnosis import diagnose
from jaxdp.training.setup import TrainingSetup
from jaxdp.typing import PyTree
from jaxdp.workdir import WorkDir


class Rollbacks:
    """Number of rollbacks of a run and the batches that it excludes; both are kept in its checkpoints.

    The exclusions follow from the batches alone. A run that is killed on the way and starts again from a checkpoint
    without them meets the same batches and excludes the same.
    """

    def __init__(
        self, setup: TrainingSetup, directory: WorkDir, agree: Callable[[list[int]], list[int]] = lambda steps: steps
    ):
        """Creates the count.

        Args:
            setup: Parts of the run.
            directory: Its work directory.
            agree: Function from the steps that this process sees in the directory to those that process 0 sees; all
                processes call it.
        """
        self._setup, self._directory, self._agree = setup, directory, agree
        self._optim = setup.config.optim
        self._count = 0

    def data_state(self, step: int) -> dict[str, Any]:
        """Returns the position in the data after `step` batches, as a checkpoint records it."""
        count = {"rollbacks": self._count} if self._count else {}
        return self._setup.loader.data_state(step) | count

    def load_state(self, saved: Mapping[str, Any], step: int) -> None:
        """Loads the exclusions and the number of rollbacks of a checkpoint.

        Raises:
            UserError: The checkpoint was trained on other data.
        """
        own = ("exclusions", "rollbacks", "position")
        states = (saved, self._setup.loader.data_state(step))
        check_data_state(*({key: state[key] for key in state if key not in own} for state in states))
        self._setup.loader.load_state({key: saved[key] for key in saved if key != "rollbacks"})
        self._count = max(self._count, saved.get("rollbacks", 0))

    def exclude(self, diverged: Diverged, params: PyTree) -> int:
        """Excludes the batches that made the run diverge.

        Args:
            diverged: The bad updates.
            params: The parameters, which these updates left unchanged.

        Returns:
            The largest step of a checkpoint to go back to.

        Raises:
            TrainingDiverged: `optim.max_rollbacks` are used up, or the data is a stream.
        """
        loader = self._setup.loader
        if self._count >= self._optim.max_rollbacks or not isinstance(loader, IndexedLoader):
            raise self._gave_up(diverged, params)
        batches = spoiled_batches(diverged, self._setup.config.parallel.delay)
        slots = loader.slots(batches)
        loader.exclude(slots)
        self._count += 1
        print_status(
            f"{self._described(diverged)}: going back to before step {batches.start + 1} and excluding batches "
            f"{slots[0]} to {slots[-1]} of the data (rollback {self._count} of {self._optim.max_rollbacks}, "
            "optim.max_rollbacks)"
        )
        return batches.start

    def check_learned(self, state: TrainState) -> None:
        """Checks that at least one update of a run that ends was applied.

        Args:
            state: Last state.

        Raises:
            TrainingDiverged: All were skipped, so that the parameters are the initial ones.
        """
        step, skipped, skipped_in_a_row = (int(x) for x in (state.step, state.skipped, state.skipped_in_a_row))
        if step and skipped == step:
            first = Diverged(1, step, is_finite=False)
            raise TrainingDiverged(
                f"nothing was learned: all {step} updates were skipped, and the parameters are still the initial ones. "
                f"{self._first_batch(first, state.params)}Give data or weights that count, or a lower optim.learning_rate; "
                "then start a new run in another --workdir."
            )
        if skipped_in_a_row:
            print_status(
                f"the last {skipped_in_a_row} updates were skipped (loss, gradient or weights not usable); "
                f"{skipped} of {step} in all"
            )

    def _described(self, diverged: Diverged) -> str:
        what = self._cause() if diverged.is_finite else "a non-finite loss or gradient"
        last = diverged.first_step + diverged.num_steps - 1
        return f"the updates of steps {diverged.first_step} to {last} had {what} and were skipped"

    def _cause(self) -> str:
        """Describes why an update with a finite loss and gradient is skipped."""
        causes = []
        if self._optim.spike_factor:
            causes.append(f"a loss above {self._optim.spike_factor} times its running mean (optim.spike_factor)")
        if self._setup.update.checks_result:
            causes.append(f"parameters that optim.name={self._optim.name} made non-finite from a finite gradient")
        return " or ".join(causes)

    def _gave_up(self, diverged: Diverged, params: PyTree) -> TrainingDiverged:
        if not self._setup.loader.can_exclude:
            return TrainingDiverged(
                f"training diverged: {self._described(diverged)}, and a stream cannot exclude its batches. "
                f"{self._good_checkpoints()} Start a new run with a lower optim.learning_rate, a longer optim.warmup_steps "
                "or a lower optim.clip_norm, or prepare the data (data.source=hf)."
            )
        return TrainingDiverged(
            f"training diverged: {self._described(diverged)}, and the {self._optim.max_rollbacks} rollbacks of "
            f"optim.max_rollbacks are used up. {self._first_batch(diverged, params)}"
            f"{self._good_checkpoints()} Fix the data where rows alone are named; else start a new run with a lower optim.learning_rate, "
            "a longer optim.warmup_steps or a lower optim.clip_norm."
        )

    def _first_batch(self, diverged: Diverged, params: PyTree) -> str:
        """Describes the first bad batch, computed again; empty for a stream, which cannot be read again."""
        if not isinstance(self._setup.loader, IndexedLoader):
            return ""
        first_step = diverged.first_step - self._setup.config.parallel.delay  # the step that read the batch
        try:
            found = str(diagnose(self._setup, params, first_step - 1))
        except jax.errors.JaxRuntimeError as error:  # it may need more memory than the step
            found = f"it could not be computed again to find out more ({' '.join(str(error).split())[:200]})"
        return f"The batch of step {first_step}: {found}. "

    def _good_checkpoints(self) -> str:
        """Describes the checkpoints that remain."""
        steps = self._agree(committed_steps(self._directory.checkpoints))
        if not steps:
            return "No checkpoint was saved before that."
        return f"The checkpoints in {self._directory.place}/checkpoints are good ({', '.join(map(str, steps))})."


def spoiled_batches(diverged: Diverged, delay: int = 0) -> range:
    """Returns the numbers of the batches to exclude: those skipped, and as many before.

    Args:
        diverged: The bad updates.
        delay: Number of steps between reading a batch and its update.
    """
    first = diverged.first_step - 1 - delay  # update n reads batch n - 1 and applies that of `delay` steps before
    return range(max(first - diverged.num_steps, 0), first + diverged.num_steps)
