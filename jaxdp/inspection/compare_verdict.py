"""Verdict of a comparison of two runs in a few sentences: where they differ first, by how much, and what explains it."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.inspection.compare_causes import Cause
from jaxdp.inspection.compare_metrics import BATCH_HASH, first_difference
from jaxdp.inspection.compare_norms import KINDS
from jaxdp.inspection.differences import by_change
from jaxdp.quoting import quoted

ROUNDING_BOUNDS = {"float32": 1e-5, "bfloat16": 1e-2}
"""Compute dtype -> relative difference of a metric up to which rounding in one step may be its cause."""

_WORDS = {
    BATCH_HASH: "the batch hash", "train/loss": "the loss", "train/grad_norm": "the gradient norm",
    "train/learning_rate": "the learning rate",
}  # fmt: skip

_MAX_CAUSES = 4
"""Maximum number of causes that the verdict names."""

_SIDES = ("first", "second")


def rounding_bound(dtypes: Sequence[str | None]) -> float:
    """Returns the relative difference up to which rounding may be the cause; 0 if a compute dtype is unknown."""
    bounds = [ROUNDING_BOUNDS.get(dtype or "") for dtype in dtypes]
    return 0.0 if None in bounds else max(bound for bound in bounds if bound)


def verdict(result: Mapping[str, Any], causes: Sequence[Cause], *, is_rounding: bool) -> str:
    """Returns the verdict.

    Args:
        result: Result of `compare_runs`.
        causes: Causes of the first difference of a metric.
        is_rounding: Whether that difference has the size of rounding.
    """
    metrics, checkpoints = result["metrics"], result["checkpoints"]
    difference, norms = first_difference(metrics), _norms(result["norms"])
    if difference is not None:
        sentences = [
            _where(metrics, difference, result["dtypes"] if is_rounding else []),
            _why(result, causes, difference),
            *_restarted(result, metrics["last_equal_step"], difference["step"]),
            *_growth(difference),
            *norms,
            *([_checkpoints(checkpoints)] if checkpoints["steps"] else []),
        ]
    elif result["step"] is not None:
        saved = [_checkpoints(checkpoints)] if checkpoints["steps"] else []
        sentences = [_equal_metrics(metrics), *norms, *saved, *_other_setup(result)]
    else:
        sentences = [_no_difference(metrics, result["norms"], checkpoints), *_lengths(metrics), *_other_setup(result)]
    return " ".join(sentences)


def _no_difference(metrics: Mapping[str, Any], norms: Mapping[str, Any] | None, checkpoints: Mapping[str, Any]) -> str:
    counts = {
        "common step": metrics["common_steps"],
        "common evaluation": metrics["common_evaluations"],
        **({"common line of norms": norms["common_steps"]} if norms else {}),
        "common checkpoint": len(checkpoints["steps"]),
    }
    if not any(counts.values()):
        return "The runs have no step and no checkpoint in common, so no number was compared."
    *others, last = [counted(number, what) for what, number in counts.items()]
    return f"No difference in {', '.join(others)} and {last}."


def counted(number: int, what: str) -> str:
    """Returns a number with its noun, in the plural unless it is 1."""
    noun, _, rest = what.partition(" of ")
    return f"{number:,} {noun}{'' if number == 1 else 's'}{rest and f' of {rest}'}"


def _lengths(metrics: Mapping[str, Any]) -> list[str]:
    ends = [lines["last"] for lines in metrics["steps"]]
    if ends[0] == ends[1] or None in ends:
        return []
    return [f"The first run has logged up to step {ends[0]:,}, the second up to step {ends[1]:,}."]


def _other_setup(result: Mapping[str, Any]) -> list[str]:
    """Names what differs without having changed a compared number."""
    names = [name for kind in ("config", "data", "versions") for name, *_ in result[kind]]
    if not names:
        return []
    more = f" and {len(names) - _MAX_CAUSES} more" if len(names) > _MAX_CAUSES else ""
    return [f"Other values: {', '.join(names[:_MAX_CAUSES])}{more}."]


def _equal_metrics(metrics: Mapping[str, Any]) -> str:
    if not metrics["common_steps"] and not metrics["common_evaluations"]:
        return "The runs have no step of metrics.jsonl in common."
    return f"The metrics are the same in {counted(metrics['common_steps'], 'common step')}."


def _where(metrics: Mapping[str, Any], difference: Mapping[str, Any], dtypes: Sequence[str]) -> str:
    name, step, before = difference["metric"], difference["step"], metrics["last_equal_step"]
    what = _in_words(name)
    since = "no earlier step is in both files" if before is None else f"the last common step before is {before:,}"
    gap = "" if before == step - 1 or step == 1 else f" ({since})"
    if name == BATCH_HASH:
        when = (
            f"from step {step:,} on"
            if difference["different"] == difference["compared_since"]
            else f"first at step {step:,}"
        )
        return f"The batches differ {when}{gap}."
    known = {
        "equal": f"The batches are the same up to step {step:,}, and {what} differs first at step {step:,}",
        "different": f"The batches differ, and {what} differs first at step {step:,}",
        "unknown": f"{what[:1].upper()}{what[1:]} differs first at step {step:,}",
    }
    hidden = "; without log.batch_hash in both runs, nothing tells whether the batches are the same"
    size = f": rounding in {' and '.join(dict.fromkeys(dtypes))} may be this large" if dtypes else ""
    return (
        f"{known[metrics['batches']]}{gap}, {_by(difference)}{size}{hidden if metrics['batches'] == 'unknown' else ''}."
    )


def _in_words(metric: str) -> str:
    return _WORDS.get(metric) or metric


def _by(difference: Mapping[str, Any]) -> str:
    """Returns the size of a difference in words."""
    _, absolute, relative = difference["growth"][0]
    if absolute is None:
        values = (difference[side] for side in _SIDES)
        return " and ".join("not finite" if value is None else str(value) for value in values)
    return f"by {absolute:.2g}" + (f" (relative {relative:.2g})" if relative is not None else "")


def _why(result: Mapping[str, Any], causes: Sequence[Cause], difference: Mapping[str, Any]) -> str:
    unknown = " and ".join(
        f"the {side} run" for side, starts in zip(_SIDES, result["starts"], strict=True) if not starts
    )
    hidden = f" Code, versions and devices of {unknown} are not recorded." if unknown else ""
    if not causes:
        return (
            "Nothing that was compared explains it: no difference in configuration, data, code, versions and devices "
            + (f"determines {_in_words(difference['metric'])} beyond its rounding.{hidden}")
        )
    settings = [cause for cause in causes if cause.kind != "versions"]
    shown = settings or list(causes)
    sentence = "; ".join(
        f"{_listed([cause for cause in shown if cause.determines == effect])}, on which {effect} depend{_ending(effect)}"
        for effect in dict.fromkeys(cause.determines for cause in shown)
    )
    lead = "Different" if settings else "No configuration or data explains it; different"
    others = [cause for cause in causes if cause not in shown]
    also = f" {_listed(others)} may add to it." if others else ""
    return f"{lead} {sentence}.{also}{hidden}"


def _ending(effect: str) -> str:
    return "" if effect in ("the batches", "the updates") else "s"


def _listed(causes: Sequence[Cause]) -> str:
    named = [f"{cause.name} ({_shown(cause.first)}, {_shown(cause.second)})" for cause in causes[:_MAX_CAUSES]]
    more = [f"{len(causes) - _MAX_CAUSES} more"] if len(causes) > _MAX_CAUSES else []
    *others, last = [*named, *more]
    return f"{', '.join(others)} and {last}" if others else last


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " then ".join(map(_shown, value)) or "unknown"
    if isinstance(value, str) and len(value) in (40, 64):  # a commit or a digest
        return value[:12]
    return "unset" if value is None else quoted(value, 40) if isinstance(value, str) else str(value)


def _restarted(result: Mapping[str, Any], before: int | None, step: int) -> list[str]:
    return [
        f"The {side} run was started again from step {restart:,}, between that step and the last equal one."
        for side, starts in zip(_SIDES, result["restarts"], strict=True)
        for restart in starts
        if (before or 0) <= restart < step
    ]


def _growth(difference: Mapping[str, Any]) -> list[str]:
    """Tells how large a difference of numbers is at the last common step."""
    if len(difference["growth"]) < 2:
        return []
    step, absolute, relative = difference["growth"][-1]
    if absolute is None:
        return []
    what = _in_words(difference["metric"])
    if absolute == 0:
        return [f"At step {step:,} {what} is the same again."]
    return [
        f"At step {step:,} {what} differs by {absolute:.2g}" + (f" (relative {relative:.2g})." if relative else ".")
    ]


def _norms(norms: Mapping[str, Any] | None) -> list[str]:
    """Names the first norm that differs, which may be at an earlier step than that of the metrics."""
    if not norms or norms["step"] is None:
        return []
    row, before = norms["differences"][0], norms["last_equal_step"]
    equal = "" if before is None else f" (those of step {before:,} are the same)"
    size = "" if row["relative"] is None else f" (relative {row['relative']:.2g})"
    more = f", the first of {row['different']:,} that differ" if row["different"] > 1 else ""
    return [
        f"Norms differ first at step {norms['step']:,}{equal}: that of the {KINDS[row['kind']]} {row['leaf']}{size}{more}."
    ]


def _checkpoints(checkpoints: Mapping[str, Any]) -> str:
    step, before = checkpoints["step"], checkpoints["last_equal_step"]
    if step is None:
        return f"{counted(len(checkpoints['steps']), 'common checkpoint')} are the same, up to step {before:,}."
    equal = "" if before is None else f" (those of step {before:,} are the same)"
    counts = checkpoints["parts"].get("params", {"equal": 0, "different": 0})
    leaf, changes = checkpoints["first_leaf"], checkpoints["changes"]
    if leaf is None:
        return f"The checkpoints differ first at step {step:,}{equal}: their leaves have other names."
    name = leaf.removeprefix("params/")
    where = f"first {name}" if not changes else f"first {name} (relative change {changes[0]['relative']:.2g})"
    if changes and len(changes) > 1:
        largest = min(changes, key=by_change)
        where += f", most {largest['path']} ({largest['relative']:.2g})"
    differing = counts["different"]
    return f"The checkpoints differ first at step {step:,}{equal} in {counted(differing, 'parameter array')}: {where}."
