"""Plans as text: one block a target, and the table of more devices."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.report.terminal import memory_size, quantity

KINDS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "ema": "moving average",
    "sync_state": "state of the strategy",
    "activations": "activations",
    "logits": "logits",
    "buffers": "batch and buffers",
}
"""Kind of memory -> its name in the text, in the order in which they are shown."""

FUSED = "everything between matrix products is fused with them"


def plan_as_text(plan: Mapping[str, Any]) -> str:
    """Returns the block of a target: names in the first column, values in the second."""
    if "refused" in plan:
        return f"{plan['target']}: no plan\n  {plan['refused']}"
    rows = [
        ("model", _model(plan)),
        ("batch", _batch(plan)),
        ("memory", _memory(plan)),
        *_kinds(plan),
        *_programs(plan),
        ("microbatch", _microbatch(plan)),
        *[("collectives" if not index else "", line) for index, line in enumerate(_collectives(plan))],
        ("step", _step(plan)),
        ("speed", _speed(plan)),
        *[("would help" if not index else "", line) for index, line in enumerate(_remedies(plan))],
        *[("assumed" if not index else "", line) for index, line in enumerate(_assumptions(plan))],
    ]
    head = f"{plan['target']}: {plan['devices']} x {plan['device_kind']}"
    return "\n".join([head, *(f"  {name:<12} {value}".rstrip() for name, value in rows)])


def _model(plan: Mapping[str, Any]) -> str:
    return f"{plan['parameters']:,} parameters; attention {plan['attention']}; parallel.sync={plan['sync']}"


def _batch(plan: Mapping[str, Any]) -> str:
    count = plan["microbatches"]
    return (
        f"{plan['global_batch_size']} sequences of {plan['length']} = {plan['devices']} devices x {count} "
        f"microbatch{'es' if count > 1 else ''} x {plan['microbatch_size']}"
    )


def _memory(plan: Mapping[str, Any]) -> str:
    needed, limit = plan["bytes"]["total"], plan["bytes"]["device"]
    if needed > limit:
        return f"DOES NOT FIT: the step needs {memory_size(needed)} of {memory_size(limit)}, {memory_size(needed - limit)} too many"
    if not plan["fits"]:
        return (
            f"DOES NOT FIT: the step needs {memory_size(needed)} of {memory_size(limit)}, the evaluation more than that"
        )
    return (
        f"fits: the step needs {memory_size(needed)} of {memory_size(limit)}, {memory_size(limit - needed)} stay free"
    )


def _kinds(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    sizes = {name: plan["bytes"][kind] for kind, name in KINDS.items() if plan["bytes"][kind]}
    width = max(map(len, sizes), default=0)
    return [("", f"{name:<{width}} {memory_size(size):>10}") for name, size in sizes.items()]


def _programs(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    limit, lines = plan["bytes"]["device"], []
    for name in ("evaluation", "decoding"):
        if name not in plan["programs"]:
            continue
        program = plan["programs"][name]
        what = f"{program['rows']} sequences at once, with the train state" if name == "evaluation" else program["rows"]
        verdict = "" if program["total"] <= limit else "DOES NOT FIT: "
        lines.append((name, f"{verdict}{memory_size(program['total'])} ({what})"))
    return lines


def _microbatch(plan: Mapping[str, Any]) -> str:
    largest, tried = plan["max_microbatch_size"], ", ".join(plan["microbatches_tried"])
    if not largest:
        return f"not even 1 sequence fits (compiled: {tried})"
    rows = plan["microbatch_size"] * plan["microbatches"]
    whole = " (all of a device's share)" if largest == rows else ""
    return f"largest that fits: {largest}{whole}; configured {plan['microbatch_size']}; compiled {tried}"


def _collectives(plan: Mapping[str, Any]) -> list[str]:
    if not plan["collectives"]:
        return ["none" if plan["devices"] == 1 else "unknown: no microbatch size compiles"]
    return [
        f"{each['count']} x {each['kind']}, {memory_size(each['bytes'])} a step, "
        + ("asynchronous" if each["async"] else "synchronous")
        + (": computation goes on meanwhile" if each["overlaps"] else ": computation waits")
        for each in plan["collectives"]
    ]


def _step(plan: Mapping[str, Any]) -> str:
    timed = plan["ceilings"]
    parts = ", ".join(
        f"{name} {_secs(timed[f'{key}_secs'])}"
        for key, name in (("compute", "arithmetic"), ("memory", "memory"), ("link", "links"))
    )
    rule = (
        "the longest of them"
        if timed["overlaps"] or plan["devices"] == 1
        else "links come after the longer of the others"
    )
    return f"at best {_secs(plan['step_secs_estimate'])}: {parts}; {rule}"


def _speed(plan: Mapping[str, Any]) -> str:
    return (
        f"at best {quantity(plan['tokens_per_sec'])} tokens/s, MFU {plan['mfu']:.0%}; "
        f"{quantity(plan['flops_per_step'], 'FLOP')} a step, {quantity(plan['model_flops_per_step'], 'FLOP')} of the model"
    )


def _remedies(plan: Mapping[str, Any]) -> list[str]:
    remedies = plan["remedies"]
    width = max((len(each["setting"]) for each in remedies), default=0)
    return [
        f"{each['setting']:<{width}}  saves {memory_size(each['saved']):>9}; costs {each['cost']}" for each in remedies
    ]


def _assumptions(plan: Mapping[str, Any]) -> list[str]:
    rates = plan["rates"]
    speeds = (
        f"{rates['source']}: {quantity(rates['flops'], 'FLOP/s')}, memory {quantity(rates['memory'], 'B/s')}, "
        f"links {quantity(rates['link'], 'B/s')}; {FUSED}"
    )
    return [f"limit: {plan['limit_source']}", *plan["assumptions"], speeds]


def scaling_as_text(plan: Mapping[str, Any]) -> str:
    """Returns the table of step time and efficiency against the number of devices."""
    rates = plan["rates"]
    tokens = plan["global_batch_size"] // plan["devices"] * plan["length"]
    lines = [
        f"  {plan['target'].split(':')[0]}, {tokens:,} tokens a device; links {quantity(rates['link'], 'B/s')} among "
        f"{rates['in_server']:,} devices, network {quantity(rates['network'], 'B/s')} a device beyond",
        f"  {'devices':>8} {'step':>10} {'links':>10} {'tokens/s':>10} {'efficiency':>11}",
    ]
    for row in plan["scaling"]:
        rate = quantity(tokens * row["devices"] / row["step_secs"])
        lines.append(
            f"  {row['devices']:>8,} {_secs(row['step_secs']):>10} {_secs(row['link_secs']):>10} {rate:>10} {row['efficiency']:>11.0%}"
        )
    return "\n".join(lines)


def _secs(secs: float) -> str:
    return f"{secs:.2f} s" if secs >= 1 else f"{1e3 * secs:.3g} ms" if secs else "0 ms"


def plans_as_text(plans: Sequence[Mapping[str, Any]], with_scaling: bool) -> str:
    """Returns all plans as text."""
    blocks = [
        plan_as_text(plan) + (f"\n{scaling_as_text(plan)}" if with_scaling and "refused" not in plan else "")
        for plan in plans
    ]
    return "\n\n".join(blocks)
