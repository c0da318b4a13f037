"""First difference between the metrics.jsonl of two runs: step, metric, size, and growth over later steps.

Both files are read once, line by line, in constant memory. Values are compared bit for bit, at the steps that both
files have. Values of the group `perf` depend on the machine, and shares of a mixture on the lines before, so neither is
compared.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxdp.errors import UserError
from jaxdp.metrics import LEARNING_RATE, TRAIN_LOSS
from jaxdp.report.writers import iterate_metrics

BATCH_HASH = "data/batch_hash"
"""Name of the hash of a batch."""

_FIRST = (BATCH_HASH, TRAIN_LOSS.full_name, "train/grad_norm", LEARNING_RATE.full_name)
"""Metrics of a step in the order in which a step computes them."""

_GROUPS = ("train", "norms")
"""Groups of training metrics, in order; further groups follow, and evaluation is last, after the update of its step."""

Values = dict[str, Any]


@dataclasses.dataclass
class Lines:
    """Training lines of one file.

    Attributes:
        first: Step of the first one; None: there is none.
        last: Step of the last one.
        count: Number of steps.
    """

    first: int | None = None
    last: int | None = None
    count: int = 0

    def add(self, step: int) -> None:
        """Counts a line."""
        self.first = step if self.first is None else self.first
        self.last, self.count = step, self.count + 1


@dataclasses.dataclass
class Difference:
    """Differences of one metric.

    Attributes:
        metric: Full name.
        compared: Number of steps at which both runs have it.
        different: Number of those at which its values differ.
        compared_since: Number of those from the first difference on.
        step: First step at which they differ; None: there is none.
        first: Value of the first run there.
        second: Value of the second run there.
        last_equal_step: Last compared step before that; None: there is none.
        growth: [step, absolute, relative] at the first difference, at distances that double, and at the last compared
            step. The relative difference is |second - first| / |first|; None where there is none.
    """

    metric: str
    compared: int = 0
    different: int = 0
    compared_since: int = 0
    step: int | None = None
    first: Any = None
    second: Any = None
    last_equal_step: int | None = None
    growth: list[list[Any]] = dataclasses.field(default_factory=list)
    _last: list[Any] = dataclasses.field(default_factory=list)

    def add(self, step: int, first: Any, second: Any) -> None:
        """Compares the values of one step."""
        self.compared += 1
        differ = first != second
        self.different += differ
        if self.step is None:
            if not differ:
                self.last_equal_step = step
                return
            self.step, self.first, self.second = step, first, second
        self._last = [step, *distance(first, second)]
        if self.compared_since & (self.compared_since - 1) == 0:  # 0, 1, 2, 4, ...
            self.growth.append(self._last)
        self.compared_since += 1

    def as_json(self) -> Values:
        """Returns all values by name."""
        public = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        is_shown = not self._last or self.growth[-1] == self._last
        return public | {"growth": self.growth if is_shown else [*self.growth, self._last]}


def distance(first: Any, second: Any) -> tuple[float | None, float | None]:
    """Returns the absolute and the relative difference of two values; None for text, null, and relative to zero."""
    if not all(isinstance(value, int | float) for value in (first, second)):
        return None, None
    absolute = abs(float(second) - float(first))
    if not math.isfinite(absolute):
        return None, None
    relative = 0.0 if first == second else absolute / abs(float(first)) if first else math.inf
    return absolute, relative if math.isfinite(relative) else None


def compare_metrics(first: Path, second: Path) -> Values:
    """Compares two metrics.jsonl; a missing file has no lines.

    Returns:
        {"common_steps", "first_common_step", "last_common_step", "common_evaluations", "steps", "last_equal_step",
        "batches", "differences", "only_first", "only_second"}. "steps" has {"first", "last", "count"} of the training
        lines of each run. "differences" has `Difference.as_json` of each metric that differs, by step and, within a
        step, in the order in which the step computes them. "last_equal_step" is the last common step before the first
        of these, "batches" says whether the batches of that first step are "equal", "different" or "unknown". Without
        a difference they are those of the last common step.

    Raises:
        UserError: A line is not a JSON object with a step, or steps are not in order.
    """
    lines = (Lines(), Lines())
    common = Lines()
    found: dict[str, Difference] = {}
    names: tuple[set[str], set[str]] = (set(), set())
    num_evaluations, last_equal, batches = 0, None, "unknown"
    for step, old, new in merged_steps(first, second):
        for own, seen, counted in zip((old, new), names, lines, strict=True):
            seen.update(own)
            if TRAIN_LOSS.full_name in own:
                counted.add(step)
        shared = [name for name in old if name in new]
        if not shared:
            continue
        is_equal_before = all(difference.step is None for difference in found.values())
        for name in shared:
            found.setdefault(name, Difference(name)).add(step, old[name], new[name])
        if TRAIN_LOSS.full_name in shared:
            common.add(step)
        num_evaluations += any(name.startswith("eval/") for name in shared)
        if is_equal_before:
            batches = _batches(old, new) if TRAIN_LOSS.full_name in shared else batches
            if all(old[name] == new[name] for name in shared):
                last_equal = step
    differing = [difference for difference in found.values() if difference.step is not None]
    return {
        "common_steps": common.count,
        "first_common_step": common.first,
        "last_common_step": common.last,
        "common_evaluations": num_evaluations,
        "steps": [dataclasses.asdict(counted) for counted in lines],
        "last_equal_step": last_equal,
        "batches": batches,
        "differences": [difference.as_json() for difference in sorted(differing, key=_by_step)],
        "only_first": sorted(names[0] - names[1]),
        "only_second": sorted(names[1] - names[0]),
    }


def _batches(old: Values, new: Values) -> str:
    if BATCH_HASH not in old or BATCH_HASH not in new:
        return "unknown"
    return "equal" if old[BATCH_HASH] == new[BATCH_HASH] else "different"


def _by_step(difference: Difference) -> tuple[Any, ...]:
    name = difference.metric
    group = name.partition("/")[0]
    rank = _FIRST.index(name) if name in _FIRST else len(_FIRST)
    of_group = _GROUPS.index(group) if group in _GROUPS else len(_GROUPS) + (group == "eval")
    return difference.step, rank, of_group, name


def merged_steps(first: Path, second: Path) -> Iterator[tuple[int, Values, Values]]:
    """Yields every step with the values of both files, {} where a file does not have it."""
    old, new = _by_steps(first), _by_steps(second)
    left, right = next(old, None), next(new, None)
    while left or right:
        step = min(side[0] for side in (left, right) if side)
        here = [side[1] if side and side[0] == step else {} for side in (left, right)]
        yield step, here[0], here[1]
        left = next(old, None) if left and left[0] == step else left
        right = next(new, None) if right and right[0] == step else right


def _by_steps(path: Path) -> Iterator[tuple[int, Values]]:
    """Yields the compared values of each step of a file, of all of its lines."""
    if not path.exists():
        return
    before = -1
    for step, lines in itertools.groupby(iterate_metrics(path), key=lambda line: line["step"]):
        if step <= before:
            raise UserError(
                f"{path} has step {step} after step {before}; expected lines in the order of their steps: delete those that "
                "were added."
            )
        before = step
        yield step, {name: value for line in lines for name, value in line.items() if _is_compared(name)}


def _is_compared(name: str) -> bool:
    group = name.partition("/")[0]
    return name == BATCH_HASH or ("/" in name and group not in ("perf", "data"))


def first_difference(metrics: Mapping[str, Any]) -> Values | None:
    """Returns the first difference of `compare_metrics`; None: there is none."""
    return metrics["differences"][0] if metrics["differences"] else None
