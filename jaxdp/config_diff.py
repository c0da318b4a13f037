"""Comparison of configurations: keys that define a run and their differences, for resume and inspection."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdp.config import default_values
from jaxdp.errors import UserError
from jaxdp.nested import differences
from jaxdp.quoting import quoted
from jaxdp.redact import masked_values
from jaxdp.run_config import DATA_PLACES, TEST_DATA

FIXED_ON_RESUME = ("task", "model", "data", "seed", "optim", "global_batch_size")
"""Keys and groups that must not change on resume, like the group of the run's task; all others may change."""

_CHANGES_NO_BATCH = (
    *(f"data.{key}" for key in (*DATA_PLACES, *TEST_DATA)), "data.cache_dir", "data.num_workers", "data.prefetch_batches",
    "masked_lm.num_candidates",
)  # fmt: skip
"""Keys of the fixed groups that do not affect batches. The data may have moved: the fingerprint in the checkpoint identifies it."""

_MAX_SHOWN = 20
"""Maximum number of keys in a message."""

_MAX_CHARACTERS = 200
"""Maximum number of characters of a value in a message."""


def check_resumable(saved: Mapping[str, Any], current: Mapping[str, Any], workdir: Path) -> None:
    """Checks that a configuration may continue a run.

    Keys that one configuration lacks because jaxdp added them later have their defaults.

    Raises:
        UserError: Keys that define the run differ; the message shows both values of each.
    """
    changes = changed_keys(saved, current)
    if changes:
        raise UserError(
            f"--workdir={workdir} holds a run of another configuration:\n"
            + listed_changes(changes, "in the run", "now")
            + "\nUse another --workdir for a new run, or the values that it was trained with."
        )


def _has_own_eval_data(*configs: Mapping[str, Any]) -> bool:
    """Returns True if no configuration selects its validation split from the training data."""
    return all(values["data"].get("eval_path") or values["data"].get("eval_split") for values in configs)


def changed_keys(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Compares the keys of two configurations that define a run: task, model, data, seed, optimizer and batch size.

    Args:
        saved: Configuration of a checkpoint.
        current: Current configuration. Keys that one of them lacks because jaxdp added them later have their defaults.

    Returns:
        (key, saved value, current value) of every key that differs.
    """
    usual = default_values()
    saved, current = masked_values(_with_defaults(saved, usual)), masked_values(_with_defaults(current, usual))
    groups = dict.fromkeys((*FIXED_ON_RESUME, str(saved["task"])))
    found = differences(*({group: values.get(group) for group in groups} for values in (saved, current)))
    return [difference for difference in found if not _changes_no_batch(*difference, saved, current)]


def all_changes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Compares all keys of two configurations.

    Args:
        saved: Configuration, plain JSON values.
        current: Another one. Keys that one of them lacks because jaxdp added them later have their defaults.

    Returns:
        (key, saved value, current value) of every key that differs.
    """
    usual = default_values()
    return differences(masked_values(_with_defaults(saved, usual)), masked_values(_with_defaults(current, usual)))


def _changes_no_batch(key: str, old: Any, new: Any, *configs: Mapping[str, Any]) -> bool:
    if key == "data.mixture":  # its entries may be elsewhere, as `data.path` may
        return without_places(old) == without_places(new)
    return key in _CHANGES_NO_BATCH or (key == "data.eval_selection" and _has_own_eval_data(*configs))


def listed_changes(differences: Sequence[tuple[str, Any, Any]], old_place: str, new_place: str) -> str:
    """Returns one line for each of the first differences, with both values."""
    lines = [f"  {key}: {_shown(old)} {old_place}, {_shown(new)} {new_place}" for key, old, new in differences]
    more = [f"  and {len(lines) - _MAX_SHOWN} more"] if len(lines) > _MAX_SHOWN else []
    return "\n".join(lines[:_MAX_SHOWN] + more)


def _with_defaults(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values, with those of `usual` for missing keys."""
    filled = {**usual, **values}
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(usual.get(key), Mapping):
            filled[key] = _with_defaults(value, usual[key])
    return filled


def without_places(mixture: Any) -> Any:
    """Returns the JSON value of `data.mixture` without the file paths of its entries."""
    if not isinstance(mixture, list):
        return mixture
    return [
        {key: value for key, value in entry.items() if key not in DATA_PLACES} if isinstance(entry, Mapping) else entry
        for entry in mixture
    ]


def _shown(value: Any) -> str:
    return "unset" if value is None else quoted(value, _MAX_CHARACTERS)
