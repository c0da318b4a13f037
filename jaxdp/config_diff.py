"""Comparison of configurations: which keys define a run, and which of them differ."""

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
"""Keys and groups that a run keeps when it continues, like the group of its own task; all others may change."""

_CHANGES_NO_BATCH = (
    *(f"data.{key}" for key in (*DATA_PLACES, *TEST_DATA)), "data.cache_dir", "data.num_workers", "data.prefetch_batches",
    "masked_lm.num_candidates",
)  # fmt: skip
"""Keys of the fixed groups that no batch depends on. The data may be elsewhere: the fingerprint in the checkpoint tells whether it is the same."""

_MAX_SHOWN = 20
"""Keys that one message lists."""

_MAX_CHARACTERS = 200
"""Characters of a value in a message."""


def check_resumable(saved: Mapping[str, Any], current: Mapping[str, Any], workdir: Path) -> None:
    """Refuses to continue a run under a configuration that means another one.

    A key that a configuration lacks, since jaxdp has gained it later, has its default.

    Raises:
        UserError: lists every key that differs, both sides.
    """
    changes = changed_keys(saved, current)
    if changes:
        raise UserError(
            f"--workdir={workdir} holds a run of another configuration:\n"
            + listed_changes(changes, "in the run", "now")
            + "\nUse another --workdir for a new run, or the values that it was trained with."
        )


def _has_own_eval_data(*configs: Mapping[str, Any]) -> bool:
    """Whether nothing is selected from the training data in any of the configurations."""
    return all(values["data"].get("eval_path") or values["data"].get("eval_split") for values in configs)


def changed_keys(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Compares two configurations in everything that defines a run: task, model, data, seed, optimizer and batch size.

    Args:
        saved: As in a checkpoint.
        current: As it is now. A key that one of both lacks, since jaxdp has gained it later, has its default.

    Returns:
        (key, saved value, current value) of every key that differs.
    """
    usual = default_values()
    saved, current = masked_values(_with_defaults(saved, usual)), masked_values(_with_defaults(current, usual))
    groups = dict.fromkeys((*FIXED_ON_RESUME, str(saved["task"])))
    found = differences(*({group: values.get(group) for group in groups} for values in (saved, current)))
    return [difference for difference in found if not _changes_no_batch(*difference, saved, current)]


def _changes_no_batch(key: str, old: Any, new: Any, *configs: Mapping[str, Any]) -> bool:
    if key == "data.mixture":  # its entries may be elsewhere, as `data.path` may
        return without_places(old) == without_places(new)
    return key in _CHANGES_NO_BATCH or (key == "data.eval_selection" and _has_own_eval_data(*configs))


def listed_changes(differences: Sequence[tuple[str, Any, Any]], old_place: str, new_place: str) -> str:
    """One line for each of the first differences, with both sides."""
    lines = [f"  {key}: {_shown(old)} {old_place}, {_shown(new)} {new_place}" for key, old, new in differences]
    more = [f"  and {len(lines) - _MAX_SHOWN} more"] if len(lines) > _MAX_SHOWN else []
    return "\n".join(lines[:_MAX_SHOWN] + more)


def _with_defaults(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """The values, and those of `usual` where a key is missing."""
    filled = {**usual, **values}
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(usual.get(key), Mapping):
            filled[key] = _with_defaults(value, usual[key])
    return filled


def without_places(mixture: Any) -> Any:
    """`data.mixture` as in JSON, its entries without what says where their files are."""
    if not isinstance(mixture, list):
        return mixture
    return [
        {key: value for key, value in entry.items() if key not in DATA_PLACES} if isinstance(entry, Mapping) else entry
        for entry in mixture
    ]


def _shown(value: Any) -> str:
    return "unset" if value is None else quoted(value, _MAX_CHARACTERS)
