"""Which checkpoints are kept, how the others go, and which one is meant by a name."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxdp.checkpoint.manifest import (
    MANIFEST,
    committed_steps,
    find_damage,
    finite_metrics,
    read_manifest,
)
from jaxdp.errors import UserError
from jaxdp.metrics import higher_is_better

LEFTOVER_MARKS = (".orbax-checkpoint-tmp", ".deleting")
"""In names of what an interrupted save or deletion leaves behind."""

DAMAGED_MARK = ".damaged"
"""In names of checkpoints that were found damaged and set aside; nothing of ours deletes them."""


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
    """

    keep_latest: int = 2
    keep_best: int = 1
    keep_every_steps: int = 0
    metric: str = "eval/loss"
    keep_back_steps: int = 0

    def kept(self, metrics_by_step: Mapping[int, Mapping[str, float]]) -> set[int]:
        """The steps that stay, of those given with their metrics."""
        return set(self.reasons(metrics_by_step))

    def best(self, metrics_by_step: Mapping[int, Mapping[str, float | None]]) -> Sequence[int]:
        """The `keep_best` best steps, the best first."""
        return ranked(metrics_by_step, self.metric)[: self.keep_best]

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
        """
        Args:
            retention: the rules.
            metrics_by_step: those of the checkpoints that are there.
        """
        self._retention = retention
        self._metrics = dict(metrics_by_step)

    def add(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Takes one evaluation in; whether it is one of the `keep_best` best by now."""
        self._metrics[step] = finite_metrics(metrics)
        best = self._retention.best(self._metrics)
        self._metrics = {kept: self._metrics[kept] for kept in best}
        return step in best


def ranked(metrics_by_step: Mapping[int, Mapping[str, float]], metric: str) -> Sequence[int]:
    """Steps from best to worst by a metric; those without a value are left out.

    Of equals the earlier is better: it has the same value after less training.
    """
    values = {
        step: metrics[metric] for step, metrics in metrics_by_step.items() if metrics.get(metric) is not None
    }
    if not values:  # of a name that nothing was saved with, the direction may be unknown
        return []
    sign = -1 if higher_is_better(metric) else 1
    return sorted(values, key=lambda step: (sign * values[step], step))


def saved_metrics(checkpoints: Path) -> dict[int, Mapping[str, float | None]]:
    """The metrics saved with each checkpoint; one whose manifest is damaged is left out."""
    manifests = {step: read_manifest(checkpoints / str(step)) for step in committed_steps(checkpoints)}
    return {step: manifest.metrics for step, manifest in manifests.items() if manifest is not None}


class Intactness:
    """Which checkpoints are as they were written; each is read once, and again when a file of it has changed."""

    def __init__(self):
        self._trusted: dict[Path, list] = {}

    def trust(self, checkpoint: Path) -> None:
        """It is intact, by reading it or having written it just now."""
        self._trusted[checkpoint] = _stamps(checkpoint)

    def __call__(self, checkpoint: Path) -> bool:
        if self._trusted.get(checkpoint) != _stamps(checkpoint):
            if find_damage(checkpoint):
                return False
            self.trust(checkpoint)
        return True


def _stamps(directory: Path) -> list[tuple]:
    """Changes when any file below is written to, replaced, added or removed."""
    stats = ((path, path.stat()) for path in sorted(directory.rglob("*")))
    return [(path.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats]


def apply_retention(checkpoints: Path, retention: Retention, is_intact: Callable[[Path], bool] | None = None) -> None:
    """Deletes what no rule wants.

    A damaged checkpoint does not count as kept, nor is it deleted: another one
    takes its place, and the next start sets it aside.

    Args:
        checkpoints: the directory.
        retention: the rules.
        is_intact: whether a checkpoint is as it was written; None: read every file.
    """
    is_intact = is_intact or Intactness()
    metrics = dict(saved_metrics(checkpoints))
    while damaged := [step for step in retention.kept(metrics) if not is_intact(checkpoints / str(step))]:
        for step in damaged:
            del metrics[step]
    for step in metrics.keys() - retention.kept(metrics):
        delete_checkpoint(checkpoints / str(step))


def delete_checkpoint(directory: Path) -> None:
    """Deletes a checkpoint; renamed first, so that half of it is never taken for one."""
    doomed = directory.with_name(f"{directory.name}.deleting")
    directory.rename(doomed)
    shutil.rmtree(doomed)


def remove_leftovers(checkpoints: Path) -> list[str]:
    """Removes what an interrupted save or deletion left behind; returns the names.

    Only for the process that holds the lock of the work directory.
    """
    if not checkpoints.is_dir():
        return []
    leftovers = [
        path
        for path in checkpoints.iterdir()
        if path.is_dir()
        and (
            any(mark in path.name for mark in LEFTOVER_MARKS)
            or (path.name.isdigit() and not (path / MANIFEST).exists())
        )
    ]
    for path in leftovers:
        shutil.rmtree(path)
    return [path.name for path in leftovers]


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
        order = ranked(saved_metrics(checkpoints), metric)
        if not order:
            raise UserError(
                f"no checkpoint in {checkpoints} was saved with {metric}; "
                f"use --step=latest or one of {listed}."
            )
        return order[0]
    if not which.isdigit() or int(which) not in steps:
        raise UserError(
            f"--step={which}: {checkpoints} has no such checkpoint; it has {listed}, `latest` and `best`."
        )
    return int(which)
