"""Result of a training run."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from jaxdp.checkpoint.retention import saved_metrics
from jaxdp.errors import UserError
from jaxdp.workdir import WorkDir

if TYPE_CHECKING:
    from jaxdp.inference.loaded_model import LoadedModel


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of `jaxdp.train`.

    Attributes:
        step: Number of updates completed.
        request: Number of the signal that stopped the run early, or 0.
        interrupted: Whether the run was stopped before there was anything to save.
        metrics: Metrics of the last evaluation by full name, e.g. "eval/loss"; empty if there was none.
        workdir: Work directory of the run.
    """

    step: int
    request: int
    interrupted: bool = False
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict, repr=False, compare=False)
    workdir: Path | None = dataclasses.field(default=None, repr=False, compare=False)

    @functools.cached_property
    def model(self) -> "LoadedModel":
        """Trained model, as `jaxdp.load(workdir)` returns it; loaded at first use.

        Raises:
            UserError: The run has no checkpoint.
        """
        if self.workdir is None or not self.step:
            raise UserError("the run has no checkpoint to load a model from: it was stopped before its first step.")
        from jaxdp.inference.loaded_model import load

        return load(self.workdir)


def recorded_metrics(directory: WorkDir, last_step: int) -> Mapping[str, float]:
    """Returns the metrics of the newest checkpoint up to a step that records an evaluation; empty if there is none."""
    recorded = {
        step: metrics for step, metrics in saved_metrics(directory.checkpoints).items() if metrics and step <= last_step
    }
    newest = recorded[max(recorded)] if recorded else {}
    return {name: math.nan if value is None else value for name, value in newest.items()}
