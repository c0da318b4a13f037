"""Logging hook: training metrics, throughput and MFU for the writers and the progress line."""

from collections.abc import Callable, Mapping

from jaxdp.hooks.every import Every
from jaxdp.hooks.noise_scale import NoiseScale
from jaxdp.metrics import TRAINING_METRICS
from jaxdp.parallel.control_word import join_parts
from jaxdp.trainer import Hook, StepInfo


class Logging(Hook):
    """Writes one line of metrics at each trigger, with speeds averaged over the steps since the last line.

    Attributes:
        metrics: Declarations of the metrics in a line, without the shares of a mixture.
    """

    metrics = TRAINING_METRICS

    name, after = "logging", ("recording",)

    def __init__(
        self,
        every: Every,
        write: Callable[[int, Mapping[str, float | str]], None],
        *,
        flops_per_step: float,
        peak_flops: float | None,
        batch_hash: bool,
        bytes_on_wire: float | None = None,
        noise_scale: NoiseScale | None = None,
        further: Callable[[int, int], Mapping[str, float]] = lambda first, last: {},
    ):
        """Creates the hook.

        Args:
            every: Trigger of lines.
            write: Function (step, metrics by full name) -> None.
            flops_per_step: Model FLOPs of one update over all devices.
            peak_flops: Peak FLOP/s of all devices together; None: no MFU.
            batch_hash: Whether the steps carry the hash of their batch.
            bytes_on_wire: Bytes that a device sends to others in one step; None: unknown.
            noise_scale: Estimate of the gradient noise scale, to which every step is added; None: the steps do not carry it.
            further: Function (first step, last step exclusive) -> further metrics of these steps by full name.
        """
        self._every = every
        self._write = write
        self._flops_per_step = flops_per_step
        self._peak_flops = peak_flops
        self._batch_hash = batch_hash
        self._bytes_on_wire = bytes_on_wire
        self._noise_scale = noise_scale
        self._further = further
        self._restart()

    def _restart(self) -> None:
        self._steps, self._secs, self._tokens = 0, 0.0, 0.0
        self._wait_secs, self._num_ready = 0.0, 0

    def on_step(self, info: StepInfo) -> None:
        """Adds the step to the averages and writes a line when due."""
        self._steps += 1
        self._secs += info.step_secs
        self._wait_secs += info.queue.wait_secs
        self._num_ready += info.queue.num_ready
        self._tokens += float(info.metrics["tokens"])
        if self._noise_scale:
            self._noise_scale.add(float(info.metrics["device_squares"]), float(info.metrics["grad_norm"]) ** 2)
        if self._every(info.step):
            self._write(info.step, self._line(info))
            self._restart()

    def _line(self, info: StepInfo) -> dict[str, float | str]:
        line: dict[str, float | str] = {
            "train/loss": float(info.metrics["loss"]),
            "train/grad_norm": float(info.metrics["grad_norm"]),
            "train/learning_rate": float(info.metrics["learning_rate"]),
            "train/skipped": int(info.metrics["skipped"]),
            "perf/step_secs": self._secs / self._steps,
            "perf/tokens_per_sec": self._tokens / self._secs,
            "perf/data_wait": self._wait_secs / self._secs,
            "perf/prefetch_ready": self._num_ready / self._steps,
            "perf/prefetch_depth": info.queue.depth,
        }
        if self._noise_scale:
            line["train/noise_scale"] = self._noise_scale.value
        if self._peak_flops:
            line["perf/mfu"] = self._flops_per_step * self._steps / self._secs / self._peak_flops
        if self._bytes_on_wire is not None:
            line["perf/bytes_on_wire"] = self._bytes_on_wire
        line |= self._further(info.step - self._steps, info.step)
        if self._batch_hash:
            line["data/batch_hash"] = f"{join_parts(info.metrics['batch_hash']):016x}"
        return line
