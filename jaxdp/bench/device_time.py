"""Device time of operations, read from a trace of `jax.profiler` (`*.trace.json.gz`) without TensorFlow or xprof."""

import collections
import dataclasses
import gzip
import heapq
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

COMMAND_BUFFER = "command_buffer"
"""Beginning of the name that the trace gives to every kernel of a CUDA graph in place of its HLO operation."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """Device time of one operation.

    Attributes:
        name: HLO operation, or kernel if the trace does not name one, as inside command buffers.
        kernel: Name of its longest kernel.
        secs: Device time in seconds, without that of operations which start while it runs.
        count: Number of executions.
        source: Operation of the model; empty if it is not known.
    """

    name: str
    kernel: str
    secs: float
    count: int
    source: str = ""


@dataclasses.dataclass(frozen=True)
class DeviceTime:
    """Device time of a trace.

    Attributes:
        operations: Operations, the costliest first.
        busy_secs: Time in which any operation ran: the sum over the operations if they are on one thread.
        span_secs: Time from the start of the first operation to the end of the last.
    """

    operations: list[Operation]
    busy_secs: float
    span_secs: float


def find_trace(directory: Path) -> Path:
    """Returns the trace that `jax.profiler.start_trace(directory)` wrote.

    Raises:
        FileNotFoundError: There is none.
    """
    paths = sorted(directory.rglob("*.trace.json.gz"))
    if not paths:
        raise FileNotFoundError(f"no *.trace.json.gz below {directory}: the profiler wrote nothing")
    return paths[-1]


def read_device_time(path: Path) -> DeviceTime:
    """Reads the trace and sums the device time by operation."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return device_time(json.load(file)["traceEvents"])


def device_time(events: Iterable[Mapping[str, Any]]) -> DeviceTime:
    """Sums the device time by operation, over the first device of the trace.

    The operations of a TPU are on the thread `XLA Ops`, those of a GPU on the threads of its streams. A trace of CPUs has
    no device; its operations are the events that name one.

    Args:
        events: Events in the Chrome trace format, times in microseconds.
    """
    events = [event for event in events if event]
    names = {
        (event["name"], event["pid"], event.get("tid") if event["name"] == "thread_name" else None): event["args"][
            "name"
        ]
        for event in events
        if event.get("ph") == "M" and event["name"] in ("process_name", "thread_name")
    }
    devices = sorted(
        (name, pid) for (kind, pid, _), name in names.items() if kind == "process_name" and "/device:" in name
    )
    spans = [event for event in events if event.get("ph") == "X"]
    if devices:
        _, device = devices[0]
        threads = {tid: name for (kind, pid, tid), name in names.items() if kind == "thread_name" and pid == device}
        chosen = {tid for tid, name in threads.items() if name == "XLA Ops"}
        chosen = chosen or {tid for tid, name in threads.items() if name.startswith("Stream")} or set(threads)
        spans = [event for event in spans if event["pid"] == device and event["tid"] in chosen]
    else:
        spans = [event for event in spans if "hlo_op" in event.get("args", {})]
    return _summed(spans)


def _summed(spans: list[Mapping[str, Any]]) -> DeviceTime:
    """Sums the time of each operation; on one thread no instant counts twice."""
    if not spans:
        return DeviceTime([], 0.0, 0.0)
    counts, kernels = collections.Counter(), {}
    secs: dict[str, float] = collections.defaultdict(float)
    by_thread = collections.defaultdict(list)
    for event in sorted(spans, key=lambda event: -event.get("dur", 0)):
        operation = _operation(event)
        counts[operation] += 1
        kernels.setdefault(operation, event["name"])  # the longest, not a memset before it
        by_thread[event["pid"], event["tid"]].append(event)
    for thread in by_thread.values():
        for event, duration in _own_time(thread):
            secs[_operation(event)] += duration
    operations = [
        Operation(name, kernels[name], time / 1e6, counts[name])
        for name, time in sorted(secs.items(), key=lambda pair: -pair[1])
    ]
    edges = sorted((event["ts"], event["ts"] + event.get("dur", 0)) for event in spans)
    busy, last_end = 0.0, edges[0][0]
    for start, end in edges:
        busy += max(end - max(start, last_end), 0)
        last_end = max(last_end, end)
    return DeviceTime(operations, busy / 1e6, (last_end - edges[0][0]) / 1e6)


def _operation(event: Mapping[str, Any]) -> str:
    """Returns the HLO operation of an event, or its kernel if the trace names none or only its command buffer."""
    operation = event.get("args", {}).get("hlo_op") or event["name"]
    return event["name"] if operation.startswith(COMMAND_BUFFER) else operation


def _own_time(thread: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], float]]:
    """Yields the events of one thread with parts of their time: each instant belongs to the event that started last.

    An operation that holds others thus has the rest of its time, and a kernel that starts before the one ahead of it has
    ended (programmatic dependent launch, nodes of a CUDA graph) shortens that one.
    """
    events = sorted(thread, key=lambda event: (event["ts"], -event.get("dur", 0)))
    running: list[tuple[int, float]] = []  # heap of (-index, end): the event that started last is first
    now = 0.0
    for index, event in enumerate([*events, None]):
        start = event["ts"] if event else math.inf
        while running and now < start:
            minus_index, end = running[0]
            if end <= now:
                heapq.heappop(running)
                continue
            until = min(end, start)
            yield events[-minus_index], until - now
            now = until
        if event:
            now = max(now, start)
            heapq.heappush(running, (-index, start + event.get("dur", 0)))


def source_names(hlo: str) -> dict[str, str]:
    """Returns the operation of the model (`op_name`) of each operation of an HLO text, by its name and that of its kernel.

    XLA names the kernel of `loop_fusion.2` `loop_fusion_2`.
    """
    found = re.findall(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', hlo, re.MULTILINE)
    return {re.sub(r"[.\-]", "_", name): source for name, source in found} | dict(found)


def grouped(operations: Iterable[Operation], sources: Mapping[str, str]) -> list[Operation]:
    """Returns the sums over operations of one kind and one place in the model, the costliest first.

    Without it, each of the unrolled layers would have operations of its own.

    Args:
        operations: Operations of a trace.
        sources: Operation of the model by name, as `source_names` returns them.
    """
    groups: dict[tuple[str, str], list[Operation]] = {}
    for operation in operations:
        source = re.sub(r"layer_\d+", "layer_N", sources.get(operation.name, ""))
        groups.setdefault((re.sub(r"([._]\d+)+$", "", operation.name), source), []).append(operation)
    sums = [
        Operation(name, group[0].kernel, sum(one.secs for one in group), sum(one.count for one in group), source)
        for (name, source), group in groups.items()
    ]
    return sorted(sums, key=lambda one: -one.secs)
