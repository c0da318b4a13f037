"""Hostile lines to the coordinator's port, from before the second of two processes comes until the run ends."""

import contextlib
import itertools
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from hostile_lines import HOSTILE
from tiny_processes import free_address

from chaos_faults.workshop import Row, Run, Workshop, expect, expect_same_end, wait_for

LAST_STEP = 15
BEFORE_PROCESS_1 = 3 * len(HOSTILE)
"""Connections that process 0 has to sit out alone."""
MAX_CONNECTIONS = 5000
PAUSE_SECS = 0.01
HELD = 20
"""Connections that are held open, the oldest is closed first."""

OPTIONS = ["--cpu_devices=1", "--config.checkpoint.every_steps=5", f"--config.total_steps={LAST_STEP}"]


class Stranger(threading.Thread):
    """Connects again and again to one address on loopback, with another line each time."""

    def __init__(
        self,
        address: str,
        max_connections: int = MAX_CONNECTIONS,
        pause_secs: float = PAUSE_SECS,
        held: int = HELD,
    ):
        super().__init__(daemon=True)
        host, port = address.split(":")
        expect(host == "127.0.0.1", f"{host} is not this machine's own")
        self._address = host, int(port)
        self.max_connections, self._pause_secs, self._held = max_connections, pause_secs, held
        self._ended = threading.Event()
        self.num_connections = 0

    def run(self) -> None:
        held: list[socket.socket] = []
        for lines in itertools.cycle(HOSTILE.values()):
            while not self._ended.wait(self._pause_secs) and self.num_connections >= self.max_connections:
                pass
            if self._ended.is_set():
                break
            with contextlib.suppress(OSError):  # nobody listens just now, or it has hung up
                held.append(socket.create_connection(self._address, timeout=1.0))
                self.num_connections += 1
                held[-1].sendall(lines)
                held[0].sendall(b"[")  # of a slow sender
            for connection in held[: -self._held]:
                connection.close()
            held = held[-self._held :]
        for connection in held:
            connection.close()

    def __enter__(self) -> "Stranger":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self.join()


def hostile_lines(workshop: Workshop) -> Iterator[Row]:
    """The run ends bitwise as one that nobody called."""
    workdir, undisturbed = workshop.directory / "called", workshop.directory / "not_called"
    address = free_address()
    with Stranger(address) as stranger:
        first = _start(workshop, workdir, address, 0)
        wait_for(lambda: stranger.num_connections >= BEFORE_PROCESS_1, "connections", first)
        _expect_end([first, _start(workshop, workdir, address, 1)])
        num_connections = stranger.num_connections
    _expect_end(workshop.start_two(undisturbed, *OPTIONS))
    expect_same_end(workdir, undisturbed, LAST_STEP)
    yield Row(
        "hostile lines to the port",
        f"{len(HOSTILE)} kinds in turn, at most one connection each {1000 * PAUSE_SECS:g} ms, {BEFORE_PROCESS_1} of them before process 1 comes",
        str(num_connections),
        f"both processes exit 0; {LAST_STEP} steps end bitwise as undisturbed",
    )


def _start(workshop: Workshop, workdir: Path, address: str, index: int) -> Run:
    return workshop.start(
        workdir, *OPTIONS, f"--coordinator={address}", "--num_processes=2", f"--process_index={index}"
    )


def _expect_end(runs: list[Run]) -> None:
    codes = [run.code() for run in runs]
    said = "\n".join(run.said() for run in runs)
    expect(codes == [0, 0] and not re.search("Traceback|haha", said), f"exit codes {codes}; they said:\n{said}")
