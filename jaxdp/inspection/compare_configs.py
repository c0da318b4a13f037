"""Differences between the configurations of two runs: those in force where the runs differ first, and later ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.checkpoint.config_history import config_in_force, kept_steps
from jaxdp.checkpoint.run_files import with_preset
from jaxdp.config_diff import all_changes
from jaxdp.json_files import read_json
from jaxdp.workdir import WorkDir

Rows = list[list[Any]]
"""[dotted key, first value, second value] of each key that differs."""


def compare_configs(runs: Sequence[WorkDir], step: int | None, last_equal_step: int | None) -> tuple[Rows, Rows]:
    """Compares the configurations of two runs; restarts may have changed each.

    Args:
        runs: Work directories of both.
        step: First step at which the runs differ; None: the newest configurations are compared.
        last_equal_step: Last step before it at which they were compared.

    Returns:
        (differences in force at `step`, or at an earlier step since `last_equal_step`, with the values of then;
        further differences of the newest configurations, which cannot explain it).
    """
    newest = config_differences(*map(read_config, runs))
    if step is None:
        return newest, []
    since = max(last_equal_step or 0, 1)
    ends = {at for run in runs for at in kept_steps(run) if since <= at < step}
    found: dict[str, list[Any]] = {}
    seen = set()
    for at in sorted({step, *ends}, reverse=True):
        names = tuple(config_in_force(run, at) for run in runs)
        if names in seen:
            continue
        seen.add(names)
        for row in config_differences(*(read_config(run, name) for run, name in zip(runs, names, strict=True))):
            found.setdefault(row[0], row)
    rows = list(found.values())
    return rows, [row for row in newest if row not in rows]


def read_config(run: WorkDir, name: str | None = None) -> dict[str, Any]:
    """Reads a configuration of a run; the newest unless `name` is given."""
    path = run.config if name is None else run.root / name
    return read_json(path, f"the {path.name} of a run")


def config_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Rows:
    """Compares two configurations key by key; keys that only log or save count too."""
    found = all_changes(first, second)
    if any(key.startswith("model.") and None in (old, new) for key, old, new in found):
        # One of them may be of a version that had not the key; importing the model takes time.
        found = all_changes(with_preset(first), with_preset(second))
    return [[key, old, new] for key, old, new in found]
