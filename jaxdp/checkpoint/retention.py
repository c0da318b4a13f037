"""Retention of checkpoints: rules, deletion, and selection by `latest`, `best` or step."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxdp.checkpoint.integrity import Intactness
from jaxdp.checkpoint.manifest import (
    committed_steps,
    has_manifest,
    read_manifest,
)
from jaxdp.checkpoint.metric_records import recorded_metric
from jaxdp.checkpoint.names import (
    DAMAGED_MARK,
    DELETING_MARK,
    free_name,
    leftover_step,
    list_directory,
    step_of,
)
from jaxdp.checkpoint.remote_copy import place_of
from jaxdp.errors import UserError
from jaxdp.json_files import nullify_non_finite

CheckPlace = Callable[[], None]
"""Function that raises UserError if the work directory is no longer that of this run; called before each change."""


@dataclasses.dataclass(frozen=True)
class Retention:
    """Retention rules; a checkpoint is kept if any rule applies.

    Attributes:
        keep_latest: Number of newest checkpoints to keep; at least 1.
        keep_best: Number of best checkpoints by `metric` to keep.
        keep_every_steps: Interval in steps of checkpoints that are kept forever; 0: none.
        metric: Full name of the metric, e.g. "eval/loss".
        keep_back_steps: Distance in steps behind the latest checkpoint; the newest one at
            this distance or more is kept for a rollback.
        higher_is_better: Direction of `metric`.
    """

    keep_latest: int = 2
    keep_best: int = 1
    keep_every_steps: int = 0
    metric: str = "eval/loss"
    keep_back_steps: int = 0
    higher_is_better: bool = False

    def kept(self, metrics_by_step: Mapping[int, Mapping[str, float | None]]) -> set[int]:
        """Returns the steps to keep, from step -> metrics of all checkpoints."""
        return set(self.reasons(metrics_by_step))

    def best(self, metrics_by_step: Mapping[int, Mapping[str, float | None]]) -> Sequence[int]:
        """Returns the `keep_best` best steps, the best first."""
        return ranked(metrics_by_step, self.metric, self.higher_is_better)[: self.keep_best]

    def reasons(self, metrics_by_step: Mapping[int, Mapping[str, float | None]]) -> dict[int, list[str]]:
        """Returns the rules that keep each step, without steps that no rule keeps."""
        steps = sorted(metrics_by_step)
        if not steps:
            return {}
        far = [step for step in steps if step <= steps[-1] - self.keep_back_steps]
        wanted = {
            "latest": steps[-self.keep_latest :],
            "best": self.best(metrics_by_step),
            f"every {self.keep_every_steps}": [
                step for step in steps if self.keep_every_steps and step % self.keep_every_steps == 0
            ],
            # Also the next one, which takes its place once it is far enough behind.
            "rollback": [*far[-1:], *steps[len(far) : len(far) + 1]],
        }
        return {
            step: rules for step in steps if (rules := [rule for rule, of_rule in wanted.items() if step in of_rule])
        }


class BestSoFar:
    """Tracker of the best `keep_best` evaluations; a new one must be checkpointed at once, or it could not be kept."""

    def __init__(self, retention: Retention, metrics_by_step: Mapping[int, Mapping[str, float | None]]):
        """Creates the tracker.

        Args:
            retention: Retention rules.
            metrics_by_step: Step -> metrics of the existing checkpoints.
        """
        self._retention = retention
        self._metrics = dict(metrics_by_step)

    def add(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Adds an evaluation; returns True if it is now one of the `keep_best` best."""
        self._metrics[step] = nullify_non_finite(metrics)
        best = self._retention.best(self._metrics)
        self._metrics = {kept: self._metrics[kept] for kept in best}
        return step in best


def ranked(
    metrics_by_step: Mapping[int, Mapping[str, float | None]], metric: str, higher_is_better: bool
) -> Sequence[int]:
    """Ranks steps from best to worst by a metric; steps without a value are left out.

    Among equal values the earlier step is better, as it took less training.
    """
    values = {step: value for step, metrics in metrics_by_step.items() if (value := metrics.get(metric)) is not None}
    sign = -1 if higher_is_better else 1
    return sorted(values, key=lambda step: (sign * values[step], step))


def saved_metrics(checkpoints: Path) -> dict[int, Mapping[str, float | None]]:
    """Returns the metrics saved with each checkpoint, without those of damaged manifests."""
    manifests = {step: read_manifest(checkpoints / str(step)) for step in committed_steps(checkpoints)}
    return {step: manifest.metrics for step, manifest in manifests.items() if manifest is not None}


def apply_retention(
    checkpoints: Path,
    retention: Retention,
    is_intact: Intactness | None = None,
    check_place: CheckPlace = lambda: None,
) -> None:
    """Deletes the checkpoints that no rule keeps.

    A damaged checkpoint neither counts as kept nor is deleted: another one takes its
    place, and the next start sets it aside. If nothing is to be deleted, nothing is
    read.

    Args:
        checkpoints: Directory of checkpoints.
        retention: Retention rules.
        is_intact: Integrity check with recorded proofs; None: every file is read.
        check_place: Called before each deletion; see `CheckPlace`.

    Raises:
        UserError: A checkpoint cannot be deleted.
    """
    is_intact = is_intact or Intactness()
    metrics = is_intact.metrics(checkpoints)
    while kept := retention.kept(metrics):
        damaged = [step for step in kept if not is_intact(checkpoints / str(step))] if metrics.keys() - kept else []
        if not damaged:
            break
        for step in damaged:
            del metrics[step]
    for step in metrics.keys() - retention.kept(metrics):
        check_place()
        delete_checkpoint(checkpoints / str(step))


def delete_checkpoint(directory: Path) -> None:
    """Deletes a checkpoint if it exists; renames it first, so that a partial one never counts.

    Raises:
        UserError: The checkpoint cannot be deleted.
    """
    doomed = free_name(directory, DELETING_MARK)
    try:
        directory.rename(doomed)
    except FileNotFoundError:  # deleted by another process
        return
    except OSError as error:
        raise _undeletable(directory, error) from error
    _remove(doomed)


def _remove(path: Path) -> None:
    """Removes a directory; of a symbolic link only the link, not its target."""
    try:
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _undeletable(path, error) from error


def _undeletable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be deleted ({error.strerror}); change the permissions of it and its directory, or delete it "
        "by hand, then run the same command again."
    )


def remove_leftovers(checkpoints: Path) -> list[str]:
    """Removes leftovers of interrupted saves and deletions; returns their names.

    Only for the process that holds the lock of the work directory.

    Raises:
        UserError: The directory cannot be read, or a leftover cannot be removed.
    """
    leftovers = [
        path
        for path in list_directory(checkpoints)
        if leftover_step(path.name) is not None and (path.is_dir() or path.is_symlink())
    ]
    for path in leftovers:
        _remove(path)
    return [path.name for path in leftovers]


def set_aside(directory: Path) -> Path:
    """Renames a damaged checkpoint to `<step>.damaged`, with a number if that exists; returns the new path."""
    aside = free_name(directory, DAMAGED_MARK)
    directory.rename(aside)
    return aside


def without_manifest(checkpoints: Path) -> list[Path]:
    """Lists checkpoints of jaxdp that Orbax has committed and that have no manifest.

    Such a checkpoint has lost its manifest, or an older version of jaxdp was killed just before writing it.
    """
    return [
        path
        for path in list_directory(checkpoints)
        if step_of(path.name) is not None and not has_manifest(path) and looks_like_ours(path)
    ]


def looks_like_ours(directory: Path) -> bool:
    """Returns True if a directory has the items of a checkpoint of jaxdp, of parameters only or of a train state."""
    items = ("state", "config")
    return (directory / "_CHECKPOINT_METADATA").is_file() and all((directory / item).is_dir() for item in items)


def choose_step(checkpoints: Path, which: str, metric: str = "eval/loss") -> int:
    """Returns the step that `latest`, `best` or a number selects.

    Raises:
        UserError: There is no such checkpoint.
    """
    steps, place = committed_steps(checkpoints), place_of(checkpoints)
    if not steps:
        raise UserError(f"{place} holds no checkpoint: train first, or check the path.")
    listed = ", ".join(map(str, steps))
    if which == "latest":
        return steps[-1]
    if which == "best":
        order = ranked(saved_metrics(checkpoints), metric, bool(recorded_metric(checkpoints, metric).higher_is_better))
        if not order:
            raise UserError(f"no checkpoint in {place} was saved with {metric}; use --step=latest or one of {listed}.")
        return order[0]
    step = step_of(which)
    if step is None or step not in steps:
        raise UserError(f"--step={which}: {place} has no such checkpoint; it has {listed}, `latest` and `best`.")
    return step
