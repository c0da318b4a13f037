"""Checkpoint averaging (stochastic weight averaging): mean of the last or best checkpoints of a run, read one array at a time."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxdp.checkpoint.manifest import committed_steps
from jaxdp.checkpoint.metric_records import recorded_metric
from jaxdp.checkpoint.retention import ranked, saved_metrics
from jaxdp.errors import UserError
from jaxdp.interop.checkpoint_source import CheckpointSource

_CHOICE = re.compile(r"(?P<which>last|best):(?P<count>[1-9][0-9]*)")


class AveragedCheckpoints(CheckpointSource):
    """Mean of the parameters of several checkpoints of a run, in float64 and rounded once."""

    def __init__(self, root: Path, choice: str, *, metric: str = "eval/loss", weights: str = "ema"):
        """Opens the checkpoints.

        Args:
            root: Work directory.
            choice: last:K or best:K.
            metric: Metric that ranks checkpoints.
            weights: ema (where the run has it) or raw.

        Raises:
            UserError: The run has fewer checkpoints, or the choice has another form.
            DamageFound: A manifest is not what was written.
        """
        steps = chosen_steps(root / "checkpoints", choice, metric)
        super().__init__(root, step=str(steps[0]), weights=weights)
        self._sources = [CheckpointSource(root, step=str(step), weights=weights) for step in steps]
        self._choice = f"mean of steps {', '.join(map(str, sorted(steps)))}"
        for other in self._sources[1:]:
            if other.arrays != self.arrays or other.part != self.part:
                raise UserError(f"{other.describe()} has other arrays than {self._sources[0].describe()}.")

    def read(self, name: str) -> np.ndarray:
        """Reads the mean of an array; see `ParameterSource.read`."""
        total = np.zeros(self.arrays[name].shape, np.float64)
        for source in self._sources:
            total += source.read(name)
        return (total / len(self._sources)).astype(self.arrays[name].dtype)

    def pieces(self, name: str) -> Iterator[np.ndarray]:
        """Reads the mean of an array; see `ParameterSource.pieces`."""
        yield self.read(name).reshape(-1)

    def identity(self) -> str:
        """Computes SHA-256 of the identities of the checkpoints."""
        return hashlib.sha256("\n".join(source.identity() for source in self._sources).encode()).hexdigest()

    def describe(self) -> str:
        """Returns the directory and the steps."""
        return f"{self.checkpoint.parent} ({self._choice}, {self.part})"


def chosen_steps(checkpoints: Path, choice: str, metric: str) -> list[int]:
    """Returns the steps that `last:K` or `best:K` selects, the newest or best first.

    Raises:
        UserError: There are fewer, or the choice has another form.
    """
    match = _CHOICE.fullmatch(choice)
    if match is None:
        raise UserError(f"--average={choice} is not understood; expected last:K or best:K, e.g. last:3.")
    if match["which"] == "last":
        steps = committed_steps(checkpoints)[::-1]
    else:
        higher_is_better = bool(recorded_metric(checkpoints, metric).higher_is_better)
        steps = list(ranked(saved_metrics(checkpoints), metric, higher_is_better))
    count = int(match["count"])
    if len(steps) < count:
        known = f"with {metric} " if match["which"] == "best" else ""
        raise UserError(
            f"--average={choice}: {checkpoints} has {len(steps)} checkpoints {known}({', '.join(map(str, steps)) or 'none'}); "
            "choose fewer, or keep more with checkpoint.keep_latest."
        )
    return steps[:count]
