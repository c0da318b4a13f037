"""Processes forked from one that has imported everything, which is most of what a start costs on a busy machine.

As a script: reads one JSON object {argv, faults, log} a line, forks for each, and prints {started: pid} and {ended: pid, code}.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

MODULES = (
    "jaxdp.cli.main", "jaxdp.cli.train", "jaxdp.training.train", "jaxdp.training.session", "jaxdp.data.assembly", "faults",
    "orbax.checkpoint",
)  # fmt: skip


KEEP_SECS = 2.0
"""Time in which a process that has ended keeps its number, so that no signal reaches another one."""


class Forked:
    """A forked process, with the part of `subprocess.Popen` that a run needs; signals never reach a later process of its number."""

    def __init__(self, pid: int):
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)
        self.returncode: int | None = None
        self._ended = threading.Event()

    def end(self, code: int) -> None:
        self.returncode = code
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            signal.pidfd_send_signal(self._descriptor, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forks:
    """Context manager of the process that forks."""

    def __init__(self, environment: dict[str, str]):
        self._environment = environment

    def __enter__(self) -> "Forks":
        self._parent = subprocess.Popen(
            [sys.executable, str(Path(__file__))], env=self._environment | {"OPENBLAS_NUM_THREADS": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        self._children: dict[int, Forked] = {}
        self._started: list[Forked] = []
        self._starting, self._changed = threading.Lock(), threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.wait()

    def start(self, argv: list[str], faults: tuple[str, ...], log: Path) -> Forked:
        assert self._parent.stdin is not None
        with self._starting, self._changed:  # the wait below lets go of the second
            number = len(self._started)
            self._parent.stdin.write(json.dumps({"argv": argv, "faults": faults, "log": str(log)}) + "\n")
            self._parent.stdin.flush()
            if not self._changed.wait_for(lambda: len(self._started) > number, 120.0):
                raise TimeoutError("the process that forks does not respond")
            return self._started[number]

    def _listen(self) -> None:
        assert self._parent.stdout is not None
        for line in self._parent.stdout:
            told = json.loads(line)
            with self._changed:
                if pid := told.get("started"):
                    self._children[pid] = Forked(pid)
                    self._started.append(self._children[pid])
                else:
                    self._children.pop(told["ended"]).end(told["code"])
                self._changed.notify_all()


def _serve() -> None:
    for module in MODULES:
        importlib.import_module(module)
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not fork"
    told, children = os.dup(1), {}
    os.set_blocking(0, False)
    unread = b""
    while True:
        try:
            received = os.read(0, 65536)
            if not received and not children:
                return
            unread += received
        except BlockingIOError:
            pass
        *lines, unread = unread.split(b"\n")
        for line in lines:
            pid = _fork(json.loads(line), told)
            children[pid] = time.monotonic()
            _tell(told, started=pid)
        for pid in [pid for pid, begin in children.items() if time.monotonic() > begin + KEEP_SECS]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del children[pid]
                _tell(told, ended=pid, code=os.waitstatus_to_exitcode(status))
        time.sleep(0.02)


def _tell(told: int, **what: Any) -> None:
    os.write(told, json.dumps(what).encode() + b"\n")


def _fork(order: dict[str, Any], told: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.close(told)
    log, nothing = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), os.open(os.devnull, os.O_RDWR)
    for descriptor, target in ((nothing, 0), (nothing, 1), (log, 2)):
        os.dup2(descriptor, target)
    faults, main = sys.modules["faults"], sys.modules["jaxdp.cli.main"]
    for fault in order["faults"]:
        name, _, numbers = fault.partition("=")
        faults.FAULTS[name](setattr, *map(int, filter(None, numbers.split(","))))
    sys.exit(main.main(order["argv"]))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    _serve()
