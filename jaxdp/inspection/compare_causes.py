"""Known causes of a difference between two runs: which keys, data and versions determine which numbers."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdp.inspection.compare_metrics import BATCH_HASH
from jaxdp.metrics import LEARNING_RATE
from jaxdp.run_config import DATA_PLACES, TEST_DATA

BATCHES, LOSS, RATE, UPDATES, ROUNDING, EVALUATION = (
    "the batches", "the loss", "the learning rate", "the updates", "the rounding", "the evaluation",
)  # fmt: skip
"""Results that a key, the data or a version can determine."""

_EFFECTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (rf"data\.({'|'.join(TEST_DATA)}|cache_dir|num_workers|prefetch_batches)", ()),
    (r"data\.eval_\w+", (BATCHES, EVALUATION)),
    (r"data\..+|task|global_batch_size", (BATCHES, EVALUATION)),
    (r"seed", (BATCHES, LOSS, EVALUATION)),
    (r"model\.scan_layers", (LOSS, ROUNDING)),  # scanned layers start from other random numbers
    (r"model\.(remat|attention|loss_chunk|dtype)|microbatch_size", (ROUNDING,)),
    (r"model\..+|init_\w+", (LOSS,)),
    (r"total_(steps|epochs|tokens)", (RATE,)),
    (r"optim\.(learning_rate|schedule|warmup_steps|end_learning_rate)", (RATE,)),
    (r"optim\.(label_smoothing|l1|l2|z_loss)", (LOSS, UPDATES)),
    (r"optim\.(max_skipped_in_a_row|max_rollbacks)", ()),
    (r"optim\.ema_decay", (EVALUATION,)),
    (r"optim\..+", (UPDATES,)),
    (r"parallel\.(check_every_steps|watchdog_secs|init_timeout_secs)", ()),
    (r"parallel\.(cpu_devices|bucket_mb|deterministic)", (ROUNDING,)),
    (r"parallel\..+", (UPDATES, ROUNDING)),
    (r"eval\.(num_batches|num_scored|num_beams)", (EVALUATION,)),
    (r"(eval|checkpoint|log)\..+", ()),
)  # fmt: skip
"""Regular expressions of configuration keys and what they determine; the first that matches counts."""

_PLACES = [f"data.{key}" for key in DATA_PLACES]


@dataclasses.dataclass(frozen=True)
class Cause:
    """A difference between two runs that determines a number.

    Attributes:
        kind: "config", "data" or "versions".
        name: Key of the configuration, name in the data state, or fact of a start.
        first: Value of the first run.
        second: Value of the second run.
        determines: What it determines of the number that differs.
    """

    kind: str
    name: str
    first: Any
    second: Any
    determines: str


def find_causes(
    metric: str, found: Mapping[str, Any], *, batches: str, is_rounding: bool, is_first_step: bool
) -> list[Cause]:
    """Returns the differences that determine the number in which two runs differ first.

    Args:
        metric: Full name of the metric.
        found: {"config", "data", "versions"} as in the result of `compare_runs`, "task", the task of both runs, and
            "is_data_known", whether both have a fingerprint of their data.
        batches: Whether the batches of that step are "equal", "different" or "unknown".
        is_rounding: Whether the difference has the size of rounding.
        is_first_step: Whether no update came before.

    Returns:
        Causes in configuration and data first, those in versions last.
    """
    wanted = _wanted(metric, batches, is_rounding, is_first_step)
    causes = []
    for kind in ("config", "data", "versions"):
        for name, first, second in found[kind]:
            effects = _EFFECTS_OF[kind](name, first, second, found)
            if determined := [effect for effect in wanted if effect in effects]:
                causes.append(Cause(kind, name, first, second, determined[0]))
    return sorted(causes, key=lambda cause: (cause.kind == "versions", wanted.index(cause.determines)))


def _wanted(metric: str, batches: str, is_rounding: bool, is_first_step: bool) -> Sequence[str]:
    """Returns what could have changed a metric, the likeliest first."""
    if metric == BATCH_HASH:
        return (BATCHES,)
    if metric == LEARNING_RATE.full_name:
        return (RATE, UPDATES)
    if metric.startswith("eval/"):
        return (EVALUATION, UPDATES)
    unknown = (BATCHES,) if batches != "equal" else ()
    earlier = () if is_first_step else (UPDATES, RATE)
    return (*unknown, LOSS, *earlier, *((ROUNDING,) if is_rounding else ()))


def _of_key(name: str, first: Any, second: Any, found: Mapping[str, Any]) -> Sequence[str]:
    if name in _PLACES and found["is_data_known"]:  # the data may have moved, which its fingerprint tells
        return ()
    if name == "parallel.sync":
        return (LOSS, UPDATES) if {first, second} & {"local", "delayed"} else (ROUNDING,)
    own = ((re.escape(f"{found['task']}.") + ".+", (BATCHES, LOSS, EVALUATION)),)
    return next((effects for pattern, effects in (*_EFFECTS, *own) if re.fullmatch(pattern, name)), ())


def _of_data(*_: Any) -> Sequence[str]:
    return (BATCHES, EVALUATION)


def _of_start(name: str, *_: Any) -> Sequence[str]:
    if name.startswith("devices.") or name == "num_processes":
        return (ROUNDING,)
    return (BATCHES, EVALUATION) if name == "versions.python" else (BATCHES, LOSS, RATE, UPDATES, ROUNDING, EVALUATION)


_EFFECTS_OF: Mapping[str, Callable[..., Sequence[str]]] = {"config": _of_key, "data": _of_data, "versions": _of_start}
