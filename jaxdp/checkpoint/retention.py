"""Which checkpoints are kept, how the others go, and which one is meant by a name."""

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
from jaxdp.errors import UserError
from jaxdp.json_files import nullify_non_finite

CheckPlace = Callable[[], None]
"""Raises UserError where the work directory is no longer that of this run, before something in it is changed."""


@dataclasses.dataclass(frozen=True)
class Retention:
    """What to keep: a checkpoint stays if any rule wants it.

    Attributes:
        keep_latest: the newest ones; at least 1.
        keep_best: the best ones by `metric`.
        keep_every_steps: multiples of this, for ever; 0: none.
        metric: full name, such as `eval/loss`.
        keep_back_steps: the newest one that lies at least so far behind the latest
            stays too, so that a rollback over so many steps finds one.
        higher_is_better: Direction of `metric`.
    """

    keep_latest: int = 2
    keep_best: int = 1
    keep_every_steps: int = 0
    metric: str = "eval/loss"
    keep_back_steps: int = 0
    higher_is_better: bool = False

    def kept(self, metrics_by_step: Mapping[int, Mapping[str, float]]) -> set[int]:
        """The steps that stay, of those given with their metrics."""
        return set(self.reasons(metrics_by_step))

    def best(self, metrics_by_step: Mapping[int, Mapping[str, float | None]]) -> Sequence[int]:
        """The `keep_best` best steps, the best first."""
        return ranked(metrics_by_step, self.metric, self.higher_is_better)[: self.keep_best]

    def reasons(self, metrics_by_step: Mapping[int, Mapping[str, float]]) -> dict[int, list[str]]:
        """The rules that want each step; one that no rule wants is left out."""
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
            # And the one after it, which takes its place when it is far enough behind itself.
            "rollback": [*far[-1:], *steps[len(far) : len(far) + 1]],
        }
        return {
            step: rules
            for step in steps
            if (rules := [rule for rule, of_rule in wanted.items() if step in of_rule])
        }


class BestSoFar:
    """Tells which evaluations are of states that must be saved, or what is best would not be there to be kept."""

    def __init__(self, retention: Retention, metrics_by_step: Mapping[int, Mapping[str, float | None]]):
        """Creates the object.

        Args:
            retention: the rules.
            metrics_by_step: those of the checkpoints that are there.
        """
        self._retention = retention
        self._metrics = dict(metrics_by_step)

    def add(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Takes one evaluation in; whether it is one of the `keep_best` best by now."""
        self._metrics[step] = nullify_non_finite(metrics)
        best = self._retention.best(self._metrics)
        self._metrics = {kept: self._metrics[kept] for kept in best}
        return step in best


def ranked(
    metrics_by_step: Mapping[int, Mapping[str, float | None]], metric: str, higher_is_better: bool
) -> Sequence[int]:
    """Steps from best to worst by a metric; those without a value are left out.

    Of equals the earlier is better: it has the same value after less training.
    """
    values = {
        step: metrics[metric] for step, metrics in metrics_by_step.items() if metrics.get(metric) is not None
    }
    sign = -1 if higher_is_better else 1
    return sorted(values, key=lambda step: (sign * values[step], step))


def saved_metrics(checkpoints: Path) -> dict[int, Mapping[str, float | None]]:
    """The metrics saved with each checkpoint; one whose manifest is damaged is left out."""
    manifests = {step: read_manifest(checkpoints / str(step)) for step in committed_steps(checkpoints)}
    return {step: manifest.metrics for step, manifest in manifests.items() if manifest is not None}


def apply_retention(
    checkpoints: Path,
    retention: Retention,
    is_intact: Intactness | None = None,
    check_place: CheckPlace = lambda: None,
) -> None:
    """Deletes what no rule wants.

    A damaged checkpoint does not count as kept, nor is it deleted: another one
    takes its place, and the next start sets it aside. Where nothing is to be
    deleted, nothing is read.

    Args:
        checkpoints: the directory.
        retention: the rules.
        is_intact: whether a checkpoint is as it was written; None: every file is read.
        check_place: called before each deletion.

    Raises:
        UserError: a checkpoint cannot be deleted.
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
    """Deletes a checkpoint, if it still is there; renamed first, so that half of it is never taken for one.

    Raises:
        UserError: it cannot be deleted.
    """
    doomed = free_name(directory, DELETING_MARK)
    try:
        directory.rename(doomed)
    except FileNotFoundError:  # someone else was faster
        return
    except OSError as error:
        raise _undeletable(directory, error) from error
    _remove(doomed)


def _remove(path: Path) -> None:
    """Removes a directory; of a symbolic link the link alone, as what it points to is not ours."""
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
    """Removes what an interrupted save or deletion left behind; returns the names.

    Only for the process that holds the lock of the work directory.

    Raises:
        UserError: the directory cannot be read, or something in it cannot be removed.
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
    """Renames a damaged checkpoint to `<step>.damaged`, or with a number where damage was found before; returns that."""
    aside = free_name(directory, DAMAGED_MARK)
    directory.rename(aside)
    return aside


def without_manifest(checkpoints: Path) -> list[Path]:
    """Lists what Orbax has written as a checkpoint of ours, complete but for its manifest.

    Such a checkpoint lost its manifest later, or an older version was killed just before writing it.
    """
    return [
        path
        for path in list_directory(checkpoints)
        if step_of(path.name) is not None and not has_manifest(path) and looks_like_ours(path)
    ]


def looks_like_ours(directory: Path) -> bool:
    """Whether Orbax has written the items of a checkpoint of ours here."""
    items = ("state", "data", "config")
    return (directory / "_CHECKPOINT_METADATA").is_file() and all((directory / item).is_dir() for item in items)


def choose_step(checkpoints: Path, which: str, metric: str = "eval/loss") -> int:
    """The step that `latest`, `best` or a number stands for.

    Raises:
        UserError: there is no such checkpoint.
    """
    steps = committed_steps(checkpoints)
    if not steps:
        raise UserError(f"{checkpoints} holds no checkpoint: train first, or check --workdir.")
    listed = ", ".join(map(str, steps))
    if which == "latest":
        return steps[-1]
    if which == "best":
        order = ranked(saved_metrics(checkpoints), metric, bool(recorded_metric(checkpoints, metric).higher_is_better))
        if not order:
            raise UserError(
                f"no checkpoint in {checkpoints} was saved with {metric}; "
                f"use --step=latest or one of {listed}."
            )
        return order[0]
    step = step_of(which)
    if step is None or step not in steps:
        raise UserError(
            f"--step={which}: {checkpoints} has no such checkpoint; it has {listed}, `latest` and `best`."
        )
    return step
