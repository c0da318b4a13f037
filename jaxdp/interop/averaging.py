"""Checkpoint averaging (stochastic weight averaging): mean of the last or best checkpoints of a run, read one array at a time."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxdp.checkpoint.manifest import committed_steps
from jaxdp.checkpoint.metric_records import recorded_metric
from jaxdp.checkpoint.retention import ranked, saved_metrics
from jaxdp.config import read_run_config
from jaxdp.errors import UserError
from jaxdp.interop.checkpoint_source import CheckpointSource
from jaxdp.interop.source import ParameterSource
from jaxdp.workdir import WorkDir

_CHOICE = re.compile(r"(?P<which>last|best):(?P<count>[1-9][0-9]*)")


class AveragedCheckpoints(CheckpointSource):
    """Mean of the parameters of several checkpoints of a run, in float64 and rounded once."""

    def __init__(
        self,
        root: Path,
        choice: str,
        *,
        metric: str = "eval/loss",
        weights: str = "ema",
        option: str = "--average",
    ):
        """Opens the checkpoints.

        Args:
            root: Work directory.
            choice: last:K or best:K.
            metric: Metric that ranks checkpoints.
            weights: ema (where the run has it) or raw.
            option: Name of the option that gives the choice, for messages.

        Raises:
            UserError: The run has fewer checkpoints, or the choice has another form.
            DamageFound: A manifest is not what was written.
        """
        steps = chosen_steps(root / "checkpoints", choice, metric, option)
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

    def check_whole(self) -> None:
        """Compares the files of every checkpoint with its manifest; see `ParameterSource.check_whole`."""
        for source in self._sources:
            source.check_whole()

    def read_all(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the means of all arrays after `check_whole`; see `ParameterSource.read_all`."""
        self.check_whole()
        return ((name, self.read(name)) for name in self.arrays)

    def identity(self) -> str:
        """Computes SHA-256 of the identities of the checkpoints."""
        return hashlib.sha256("\n".join(source.identity() for source in self._sources).encode()).hexdigest()

    def describe(self) -> str:
        """Returns the directory and the steps."""
        return f"{self.checkpoint.parent} ({self._choice}, {self.part})"


def averaged_run(source: ParameterSource, choice: str) -> AveragedCheckpoints:
    """Opens the mean of checkpoints of the run that a source is of, ranked by the `eval.metric` of the run.

    Args:
        source: The work directory as it was opened.
        choice: Value of `init_average`: last:K or best:K.

    Raises:
        UserError: The source is no work directory, or the run has fewer checkpoints.
        DamageFound: A manifest is not what was written.
    """
    directory = WorkDir(source.path)
    if not isinstance(source, CheckpointSource) or not directory.checkpoints.is_dir():
        raise UserError(f"init_average={choice} needs a work directory with checkpoints, found {source.describe()}.")
    metric = read_run_config(directory.config).eval.metric
    return AveragedCheckpoints(directory.root, choice, metric=metric, option="init_average")


def chosen_steps(checkpoints: Path, choice: str, metric: str, option: str = "--average") -> list[int]:
    """Returns the steps that `last:K` or `best:K` selects, the newest or best first.

    Raises:
        UserError: There are fewer, or the choice has another form.
    """
    match = _CHOICE.fullmatch(choice)
    if match is None:
        raise UserError(f"{option}={choice} is not understood; expected last:K or best:K, e.g. last:3.")
    if match["which"] == "last":
        steps = committed_steps(checkpoints)[::-1]
    else:
        higher_is_better = bool(recorded_metric(checkpoints, metric).higher_is_better)
        steps = list(ranked(saved_metrics(checkpoints), metric, higher_is_better))
    count = int(match["count"])
    if len(steps) < count:
        known = f"with {metric} " if match["which"] == "best" else ""
        raise UserError(
            f"{option}={choice}: {checkpoints} has {len(steps)} checkpoints {known}({', '.join(map(str, steps)) or 'none'}); "
            "choose fewer, or keep more with checkpoint.keep_latest."
        )
    return steps[:count]
