"""Thousands of hostile connections to the coordinator's port: floods, idle and half-open ones, and slow senders.

A tenth of them come before the second process, as many while it starts, and the rest while both train. Until all
processes have arrived they meet jaxdp's control server, afterwards JAX's coordination service.
"""

import contextlib
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from hostile_lines import HOSTILE
from tiny_processes import free_address

from chaos_faults.hostile_lines import Stranger
from chaos_faults.workshop import (
    ENDLESS,
    Row,
    Run,
    Workshop,
    as_process,
    expect,
    expect_same_end,
    size_of_metrics,
    wait_for,
)

NUM_STRANGERS = 4
HELD = 100
"""Connections that each stranger holds open; most of them send no line or an incomplete one."""

OPTIONS = ["--cpu_devices=1", "--config.checkpoint.every_steps=1000"]


def hostile_connections(workshop: Workshop, num_connections: int) -> Iterator[Row]:
    """The run goes on until it had all of them, and ends bitwise as one that nobody called."""
    workdir, undisturbed = workshop.directory / "called", workshop.directory / "not_called"
    address = free_address()
    with contextlib.ExitStack() as stack:
        strangers = [
            stack.enter_context(
                Stranger(address, max_connections=num_connections // 5 // NUM_STRANGERS, pause_secs=0.001, held=HELD)
            )
            for _ in range(NUM_STRANGERS)
        ]

        def count() -> int:
            return sum(stranger.num_connections for stranger in strangers)

        first = workshop.start(workdir, ENDLESS, *OPTIONS, *as_process(0, 2, address))
        wait_for(lambda: count() >= num_connections // 10, "connections", first, secs=3000)
        before = count()
        runs = [first, workshop.start(workdir, ENDLESS, *OPTIONS, *as_process(1, 2, address))]
        wait_for(lambda: size_of_metrics(workdir) > 0, "a line of metrics", *runs, secs=3000)
        begin, during_start = time.monotonic(), count()
        for stranger in strangers:
            stranger.max_connections = num_connections
        wait_for(lambda: count() >= num_connections, f"{num_connections} connections", *runs, secs=3000)
        secs = time.monotonic() - begin
        memory = peak_memory(first)
        runs[0].send(signal.SIGTERM)
        step = _stopped_after(runs)
    quiet = workshop.start_two(undisturbed, f"--config.total_steps={step}", *OPTIONS)
    wait_for(lambda: _is_almost_done(undisturbed, step), "the end of the undisturbed run", secs=3000)
    quiet_memory = peak_memory(quiet[0])
    codes = [run.code() for run in quiet]
    expect(codes == [0, 0], f"exit codes {codes}; it said:\n{quiet[0].said()}")
    expect_same_end(workdir, undisturbed, step)
    yield Row(
        "hostile connections to the port",
        f"{len(HOSTILE)} kinds in turn, {NUM_STRANGERS * HELD} held open, {before} before process 1 came, {num_connections - during_start} in {secs:.0f} s of training",
        str(count()),
        f"{step} steps end bitwise as undisturbed; at most {memory} MiB in process 0, {quiet_memory} MiB undisturbed",
    )


def _stopped_after(runs: list[Run]) -> int:
    codes = [run.code() for run in runs]
    said = "\n".join(run.said() for run in runs)
    expect(codes == [75, 75] and not re.search("Traceback|haha", said), f"exit codes {codes}; they said:\n{said}")
    [step] = set(re.findall(r"stopped after step (\d+) of", said))
    return int(step)


def _is_almost_done(workdir: Path, step: int) -> bool:
    metrics = workdir / "metrics.jsonl"
    return metrics.is_file() and f'"step": {max(step - 5, 1)},' in metrics.read_text()


def peak_memory(run: Run) -> int:
    """The largest resident memory of a process so far, in MiB; 0 if it has ended."""
    with contextlib.suppress(FileNotFoundError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{run.process.pid}/status").read_text())
        return int(found[1]) // 1024 if found else 0
    return 0
