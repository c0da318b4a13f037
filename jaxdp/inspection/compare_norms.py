"""First difference between the norms.jsonl of two runs: the step, and the first parameter, gradient and update there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdp.inspection.compare_metrics import distance, merged_steps
from jaxdp.inspection.data_flow import data_flow_order

KINDS = {"params": "parameter", "grads": "gradient", "updates": "update"}
"""Kinds of norms in the order in which a step computes them, and their nouns; ratios follow from these."""


def compare_norms(first: Path, second: Path) -> dict[str, Any] | None:
    """Compares two norms.jsonl up to the first step at which a norm differs; values are compared bit for bit.

    Returns:
        {"common_steps", "first_common_step", "last_equal_step", "step", "differences"}; None: a file is missing.
        "common_steps" is the number of compared steps, "step" the first at which a norm differs, or None.
        "differences" has {"kind", "leaf", "first", "second", "relative", "different", "compared"} of each kind with
        norms that differ there, in the order of KINDS: "leaf" is the first one in the order of data flow, "first",
        "second" and "relative" are its norms and their relative difference, "different" and "compared" numbers of leaves.
    """
    if not (first.is_file() and second.is_file()):
        return None
    found: dict[str, Any] = {
        "common_steps": 0, "first_common_step": None, "last_equal_step": None, "step": None, "differences": [],
    }  # fmt: skip
    for step, old, new in merged_steps(first, second):
        if not old.keys() & new.keys():
            continue
        found["common_steps"] += 1
        found["first_common_step"] = found["first_common_step"] or step
        if differences := [row for kind in KINDS if (row := _difference(kind, old, new))]:
            return found | {"step": step, "differences": differences}
        found["last_equal_step"] = step
    return found


def _difference(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any] | None:
    prefix = f"norms/{kind}/"
    common = [name for name in old if name.startswith(prefix) and name in new]
    differing = [name.removeprefix(prefix) for name in common if old[name] != new[name]]
    if not differing:
        return None
    leaf = min(differing, key=data_flow_order)
    values = old[prefix + leaf], new[prefix + leaf]
    return {
        "kind": kind, "leaf": leaf, "first": values[0], "second": values[1], "relative": distance(*values)[1],
        "different": len(differing), "compared": len(common),
    }  # fmt: skip
