"""Differences between two runs in data, code, package versions and devices."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.checkpoint.manifest import committed_steps, read_item
from jaxdp.checkpoint.run_files import describe_run_files
from jaxdp.errors import UserError
from jaxdp.nested import differences, flatten
from jaxdp.provenance import Entry, first_step
from jaxdp.workdir import WorkDir

_NOT_COMPARED = ("start_time", "command", "host", "process_id", "first_step", "directory.path")
"""Facts of a start that tell nothing about its numbers."""


def data_differences(first: WorkDir, second: WorkDir) -> list[list[Any]]:
    """Compares the data of two runs: fingerprint and order of the newest checkpoints, and vocabularies.

    Returns:
        [name, first value, second value] of every difference. Of a run without checkpoints only the vocabularies are
        known, and compared.
    """
    old, new = (_data_state(run) for run in (first, second))
    found = differences(old, new) if old and new else []
    return [[key, *pair] for key, *pair in [*found, *differences(_vocabularies(first), _vocabularies(second))]]


def is_data_known(first: WorkDir, second: WorkDir) -> bool:
    """Returns whether both runs have a checkpoint with the fingerprint of their data."""
    return all("fingerprint" in _data_state(run) for run in (first, second))


def _data_state(run: WorkDir) -> dict[str, Any]:
    """Returns the data state of the newest undamaged checkpoint that has one, without its step."""
    for step in reversed(committed_steps(run.checkpoints)):
        with contextlib.suppress(UserError):  # damaged, deleted meanwhile, or parameters only
            state = flatten(read_item(run.checkpoints / str(step), "data"))
            return {key: value for key, value in state.items() if key not in ("step", "format")}
    return {}


def _vocabularies(run: WorkDir) -> dict[str, Any]:
    paths = (run.tokenizer, run.target_tokenizer, run.labels)
    files = describe_run_files(path for path in paths if path.is_file())
    return {name: file["sha256"] for name, file in files.items()}


def version_differences(first: Sequence[Entry], second: Sequence[Entry], step: int | None) -> list[list[Any]]:
    """Compares the starts of two runs: code, packages, devices and processes.

    Args:
        first: Content of a provenance.json.
        second: Another one.
        step: First step at which the runs differ, which later starts cannot explain; None: all starts are compared.

    Returns:
        [name, first values, second values] of every fact that differs; the values are those of the starts in order,
        without repetitions.
    """
    old, new = (_facts(starts_before(entries, step)) for entries in (first, second))
    return [[name, old.get(name, []), new.get(name, [])] for name in {**old, **new} if old.get(name) != new.get(name)]


def starts_before(entries: Sequence[Entry], step: int | None) -> list[Entry]:
    """Returns the starts that continued from a step before this one; all of them if there is none, or without a step."""
    return [entry for entry in entries if step is None or first_step(entry) < step] or list(entries)


def _facts(entries: Sequence[Entry]) -> dict[str, list[Any]]:
    facts: dict[str, list[Any]] = {}
    for entry in entries:
        for name, value in flatten(entry).items():
            if name not in _NOT_COMPARED and value not in facts.setdefault(name, []):
                facts[name].append(value)
    return facts


def restarts(entries: Sequence[Entry]) -> list[int]:
    """Returns the steps from which a run was started again."""
    return [first_step(entry) for entry in entries[1:]]


def compute_dtype(config: Mapping[str, Any], entries: Sequence[Entry]) -> str | None:
    """Returns the compute dtype of a run; None if it depends on devices that are not recorded."""
    model = config.get("model")
    dtype = model.get("dtype") if isinstance(model, Mapping) else None
    if dtype != "auto":
        return dtype if isinstance(dtype, str) else None
    devices = entries[-1].get("devices") if entries else None
    platform = devices.get("platform") if isinstance(devices, Mapping) else None
    return {"cpu": "float32", "gpu": "bfloat16", "tpu": "bfloat16"}.get(str(platform))
