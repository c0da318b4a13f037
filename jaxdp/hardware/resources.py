"""Resource usage of a process and its devices, sampled by a background thread: host memory, CPU, device memory, GPU.

A reader returns values by name; the sampler keeps their mean or maximum until the
next line of metrics takes them. A reader that fails is reported once and not
called again, since a driver that is gone must not stop a run.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdp.hardware.cores import num_cores

Reader = Callable[[], Mapping[str, float]]
"""Function that returns present values by full name."""

MEANS = ("perf/cpu", "perf/gpu_utilisation", "perf/gpu_power")
"""Values whose mean over the samples is in a line of metrics; all others are maxima."""


def read_host_memory(statm: Path = Path("/proc/self/statm")) -> dict[str, float]:
    """Reads the memory of this process that is in RAM, in bytes.

    Raises:
        OSError: The system has no such file.
    """
    return {"perf/host_memory": int(statm.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")}


def cpu_reader(
    clock: Callable[[], float] = time.monotonic, cpu_clock: Callable[[], float] = time.process_time
) -> Reader:
    """Returns a reader of the share of the cores that all threads of this process have used since the last call."""
    last = (clock(), cpu_clock())

    def read() -> dict[str, float]:
        nonlocal last
        before, last = last, (clock(), cpu_clock())
        elapsed = last[0] - before[0]
        return {"perf/cpu": (last[1] - before[1]) / elapsed / num_cores()} if elapsed > 0 else {}

    return read


def device_memory_reader(devices: Sequence[Any]) -> Reader | None:
    """Returns a reader of the memory in use on the fullest of these JAX devices, in bytes; None if they do not know it."""
    if not devices or not all(device.memory_stats() for device in devices):
        return None

    def read() -> dict[str, float]:
        stats = [device.memory_stats() for device in devices]
        peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
        peak = {"perf/device_memory_peak": max(peaks)} if peaks else {}
        return {"perf/device_memory": max(each["bytes_in_use"] for each in stats)} | peak

    return read


class ResourceSampler:
    """Context manager that samples readers at an interval in a background thread."""

    def __init__(self, readers: Iterable[tuple[str, Reader]], every_secs: float, log: Callable[[str], None]):
        """Creates the sampler.

        Args:
            readers: (what the values are, for messages; reader) pairs.
            every_secs: Seconds between samples; 0: none.
            log: Called with a sentence if a reader fails.
        """
        self._readers = list(readers)
        self._every_secs = every_secs
        self._log = log
        self._lock = threading.Lock()
        self._samples: dict[str, list[float]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="jaxdp-resources", daemon=True)

    def __enter__(self) -> "ResourceSampler":
        if self._every_secs:
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stopping.set()

    def sample(self) -> None:
        """Calls every reader once."""
        for entry in list(self._readers):
            name, read = entry
            try:
                values = read()
            except Exception as error:  # each driver has exceptions of its own
                self._readers.remove(entry)
                self._log(f"{name} can no longer be read ({error or type(error).__name__}); the run goes on without it")
                continue
            with self._lock:
                for key, value in values.items():
                    self._samples.setdefault(key, []).append(value)

    def take(self) -> dict[str, float]:
        """Returns the mean or the maximum of each value since the last call; empty if nothing was sampled since."""
        with self._lock:
            samples, self._samples = self._samples, {}
        return {key: sum(values) / len(values) if key in MEANS else max(values) for key, values in samples.items()}

    def _run(self) -> None:
        while not self._stopping.wait(self._every_secs):
            self.sample()
