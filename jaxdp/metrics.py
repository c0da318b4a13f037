"""Metric declarations (`MetricSpec`) and additive metrics: (sum, weight) pairs, divided once.

A mean of means is wrong as soon as padding falls unevenly on devices,
microbatches or batches; a sum of sums is right however the examples are distributed.
Devices add in float32, the host in float64.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

Sums = Mapping[str, tuple]
"""Pairs (sum, weight) of scalars by metric name, on a device or on the host."""


@dataclasses.dataclass(frozen=True)
class MetricSpec:
    """Declaration of a metric by the task or the hook that reports it.

    Attributes:
        name: Name within its group, e.g. "accuracy".
        unit: Unit of the values, e.g. "nats"; empty if they have none.
        higher_is_better: Direction of improvement; None if there is none, so that
            the metric cannot be `eval.metric`.
        description: Meaning in a few words, e.g. "share of correct predictions".
        group: Prefix of the full name, e.g. "eval" of "eval/accuracy".
    """

    name: str
    unit: str = ""
    higher_is_better: bool | None = None
    description: str = ""
    group: str = "eval"

    @property
    def full_name(self) -> str:
        """Name in metrics.jsonl, e.g. "eval/accuracy"."""
        return f"{self.group}/{self.name}"


LOSS = MetricSpec("loss", "nats", False, "mean loss of a prediction")
"""Evaluation loss, which every task has."""

TRAIN_LOSS = MetricSpec("loss", "nats", False, "mean objective of the global batch", "train")
LEARNING_RATE = MetricSpec("learning_rate", description="learning rate of the update", group="train")
TOKENS_PER_SEC = MetricSpec("tokens_per_sec", "tokens/s", True, "training throughput", "perf")

RESOURCE_METRICS = (
    MetricSpec("host_memory", "B", False, "memory of the process in RAM", "perf"),
    MetricSpec("cpu", description="share of the cores that the process uses", group="perf"),
    MetricSpec("device_memory", "B", False, "memory in use on the fullest device of the process", "perf"),
    MetricSpec("device_memory_peak", "B", False, "largest of these since the process began", "perf"),
    MetricSpec("gpu_utilisation", "", True, "share of the time in which a kernel runs on a GPU of the process", "perf"),
    MetricSpec("gpu_temperature", "°C", False, "temperature of the hottest GPU of the process", "perf"),
    MetricSpec("gpu_power", "W", False, "power of all GPUs of the process", "perf"),
)
"""Metrics that the background sampler reads; see `jaxdp.hardware.resources`."""

SAVE_METRICS = (
    MetricSpec("checkpoint_bytes", "B", False, "size of a checkpoint", "perf"),
    MetricSpec("checkpoint_secs", "s", False, "time of a save until the checkpoint counts", "perf"),
)
"""Metrics of a save, in the first line after it."""

TRAINING_METRICS = (
    TRAIN_LOSS,
    MetricSpec("grad_norm", description="global norm of the mean gradient, before clipping", group="train"),
    LEARNING_RATE,
    MetricSpec("noise_scale", "sequences", description="gradient noise scale, with log.noise_scale", group="train"),
    MetricSpec("skipped", "updates", False, "updates skipped since the start of the run", "train"),
    MetricSpec("step_secs", "s", False, "duration of a step", "perf"),
    TOKENS_PER_SEC,
    MetricSpec(
        "data_wait", higher_is_better=False, description="share of the time spent waiting for data", group="perf"
    ),
    MetricSpec("prefetch_ready", "batches", True, "prefetched batches at the start of a step", "perf"),
    MetricSpec("prefetch_depth", "batches", description="capacity of the prefetch queue", group="perf"),
    MetricSpec("bytes_on_wire", "B", False, "bytes that a device sends to others in a step", "perf"),
    MetricSpec("mfu", higher_is_better=True, description="model FLOPs utilisation", group="perf"),
    *RESOURCE_METRICS,
    *SAVE_METRICS,
)
"""Metrics of training steps; see `jaxdp.hooks.logging`."""

PACE_METRICS = (
    MetricSpec("slowest_process", description="index of the slowest process", group="perf"),
    MetricSpec(
        "slowest_excess",
        higher_is_better=False,
        description="share of the step time that the slowest process costs",
        group="perf",
    ),
    MetricSpec(
        "slowest_data_wait", higher_is_better=False, description="data wait of the slowest process", group="perf"
    ),
)
"""Metrics of runs with several processes; see `jaxdp.hooks.pacing`."""

_LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "_error")


def undeclared_metric(full_name: str) -> MetricSpec:
    """Returns a declaration for a metric that only its name is known of.

    This is the rule for runs of jaxdp versions that recorded no declarations: lower
    is better for names that end in loss, perplexity, bits_per_byte or _error, higher
    for all others.

    Args:
        full_name: Name in metrics.jsonl, e.g. "eval/loss".
    """
    group, _, name = full_name.rpartition("/")
    return MetricSpec(name, higher_is_better=not name.endswith(_LOWER_IS_BETTER), group=group)


class Totals:
    """Running float64 totals of the `Sums` of many batches."""

    def __init__(self):
        self._totals: dict[str, np.ndarray] = {}

    def add(self, sums: Sums) -> None:
        """Adds one batch's (sum, weight) pairs, already summed over all devices."""
        for name, pair in sums.items():
            self._totals.setdefault(name, np.zeros(2)).__iadd__(np.asarray(pair, np.float64))

    def means(self) -> dict[str, float]:
        """Returns sum / weight of every metric; NaN if the total weight is 0."""
        return {
            name: float(total / weight) if weight else float("nan") for name, (total, weight) in self._totals.items()
        }
