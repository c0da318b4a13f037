"""Supervisor of the processes of a run on one machine: start, merged log, signals and restarts.

`multiprocess.sh` runs it in the environment of jaxdp and documents its behaviour.
"""

import argparse
import contextlib
import ctypes
import os
import random
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from merged_log import MergedLog

RESTART_CODES = (70, 75, 134, 137, 143)
"""Exit codes after which all processes start again."""

PORTS = range(20000, 32000)
"""Ports of the coordinator; systems assign higher ones to outgoing connections."""

PAUSE_SECS = float(os.environ.get("JAXDP_PAUSE_SECS", "1"))
"""Time between an end and the next start."""

END_SECS = float(os.environ.get("JAXDP_END_SECS", "60"))
"""Time for the other processes to end after one has failed; then they are killed."""

POLL_SECS = 0.1
MAX_LINE_BYTES = 2**20


class Process:
    """One process of the group and the lines of its output.

    Args:
        index: Index of the process.
        command: Program and arguments.
        log: Destination of its lines.
    """

    def __init__(self, index: int, command: Sequence[str], log: MergedLog):
        self.index = index
        self._log = log
        self._partial = b""
        # A group of its own: Ctrl-C reaches the supervisor only, which forwards it once, and
        # workers of a process that was killed can be ended with the group.
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        assert self.popen.stdout is not None, "stdout is a pipe"
        self.pipe = self.popen.stdout.fileno()
        os.set_blocking(self.pipe, False)

    def exit_code(self) -> int | None:
        """Returns the exit code, 128 + N for signal N; None while the process runs."""
        code = self.popen.poll()
        return code if code is None or code >= 0 else 128 - code

    def read(self) -> bool:
        """Logs the complete lines that are available; returns False at the end of the output."""
        while True:
            try:
                data = os.read(self.pipe, 2**16)
            except BlockingIOError:
                return True
            *lines, self._partial = (self._partial + data).split(b"\n")
            if self._partial and (not data or len(self._partial) > MAX_LINE_BYTES):
                lines, self._partial = [*lines, self._partial], b""
            for line in lines:
                # Of a progress bar only the last text of the line is kept.
                self._log.write(b"[%d] %s" % (self.index, line.rstrip(b"\r").rpartition(b"\r")[2]))
            if not data:
                return False

    def kill(self) -> None:
        """Kills the process and all that it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: only zombies are left
            os.killpg(self.popen.pid, signal.SIGKILL)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Requests SIGTERM for the calling process when the supervisor dies."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Supervisor:
    """Starts the processes, forwards signals to them and waits.

    Args:
        options: Options of the command line.
        log: Destination of all lines.
    """

    def __init__(self, options: argparse.Namespace, log: MergedLog):
        self._options = options
        self._log = log
        self._signals: list[int] = []
        self._stopping = False

    def run(self) -> int:
        """Runs the processes until they succeed, fail for good or are stopped; returns the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
                signal.signal(number, self._receive)
        workdir = workdir_of(self._options.command)
        count, newest = 0, newest_checkpoint(workdir)
        while True:
            code = self._run_once()
            if code == 0 or self._is_stopped() or code not in RESTART_CODES:
                return code
            before, newest = newest, newest_checkpoint(workdir)
            if newest > before:
                count = 0
            limit = self._options.restarts
            if count >= limit:
                self._log.say(f"exit code {code}; restarted {count} times, the maximum of --restarts={limit}")
                return code
            count += 1
            self._log.say(f"exit code {code}; restarting ({count} of {limit})")
            time.sleep(PAUSE_SECS)
            if self._is_stopped():
                return code

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _is_stopped(self) -> bool:
        return self._stopping or bool(self._signals)

    def _run_once(self) -> int:
        processes: list[Process] = []
        try:
            for index, command in enumerate(commands(self._options)):
                processes.append(Process(index, command, self._log))
            return exit_code(self._wait(processes))
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.popen.wait()
                process.read()  # what the pipe still holds
                assert process.popen.stdout is not None, "stdout is a pipe"
                process.popen.stdout.close()

    def _wait(self, processes: list[Process]) -> list[int]:
        """Waits for all processes; returns their exit codes in the order in which they ended."""
        codes: dict[int, int] = {}
        failing_since = None
        with selectors.DefaultSelector() as selector:
            for process in processes:
                selector.register(process.pipe, selectors.EVENT_READ, process)
            while len(codes) < len(processes):
                self._forward(processes)
                for key, _ in selector.select(POLL_SECS) if selector.get_map() else ():
                    if not key.data.read():
                        selector.unregister(key.fileobj)
                if not selector.get_map():
                    time.sleep(POLL_SECS)
                for process in processes:
                    code = process.exit_code()
                    if code is None or process.index in codes:
                        continue
                    codes[process.index] = code
                    if code != 0:
                        failing_since = failing_since or time.monotonic()
                        self._log.say(f"process {process.index} of {len(processes)} ended with {description(code)}")
                if failing_since is not None and time.monotonic() - failing_since >= END_SECS:
                    left = [process for process in processes if process.index not in codes]
                    if left:
                        names = ", ".join(str(process.index) for process in left)
                        self._log.say(f"killing the processes that are left {END_SECS:g} s after the first: {names}")
                    for process in left:
                        process.kill()
                    failing_since = time.monotonic()
        return list(codes.values())

    def _forward(self, processes: list[Process]) -> None:
        while self._signals:
            number = self._signals.pop(0)
            self._stopping = True
            for process in processes:
                process.popen.send_signal(number)  # nothing happens to one that has ended


def description(code: int) -> str:
    """Describes an exit code, with the name of a signal."""
    try:
        return f"exit code {code} ({signal.Signals(code - 128).name})"
    except ValueError:
        return f"exit code {code}"


def exit_code(codes: Sequence[int]) -> int:
    """Returns the exit code of the group from those of its processes, in the order in which they ended."""
    failures = [code for code in codes if code != 0]
    final = [code for code in failures if code not in RESTART_CODES]
    return next(iter(final + failures), 0)


def commands(options: argparse.Namespace) -> list[list[str]]:
    """Returns the command of each process of one start; all meet at a free port of this machine."""
    port = free_port() if options.processes > 1 else 0
    result = []
    for index in range(options.processes):
        command = ["jaxdp", *options.command]
        if options.gpus_each:
            first = index * options.gpus_each
            devices = ",".join(str(gpu) for gpu in range(first, first + options.gpus_each))
            command = ["env", f"JAX_LOCAL_DEVICE_IDS={devices}", *command]
        if options.cpu_devices:
            command.append(f"--cpu_devices={options.cpu_devices}")
        if options.processes > 1:
            command.append(f"--coordinator=127.0.0.1:{port}")
            command += [f"--num_processes={options.processes}", f"--process_index={index}"]
        result.append(command)
    return result


def free_port() -> int:
    """Returns a port of this machine at which nobody listens."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise OSError(f"100 ports from {PORTS.start} to {PORTS.stop - 1} are all in use on this machine")


def workdir_of(command: Sequence[str]) -> str | None:
    """Returns the value of the last --workdir; None if there is none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--workdir")
    try:
        return parser.parse_known_args(command)[0].workdir
    except argparse.ArgumentError:  # --workdir without a value, which jaxdp refuses
        return None


def newest_checkpoint(workdir: str | None) -> int:
    """Returns the step of the newest checkpoint; -1 without one, or if the work directory is remote."""
    if workdir is None or "://" in workdir:
        return -1
    names = (path.name for path in (Path(workdir).expanduser() / "checkpoints").glob("[0-9]*"))
    return max((int(name) for name in names if name.isdecimal()), default=-1)


def main(arguments: Sequence[str]) -> int:
    """Runs the command line: options, `--` and the arguments of jaxdp."""
    end = arguments.index("--")
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    for name in ("processes", "restarts", "cpu_devices", "gpus_each"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--dry_run", action="store_true")
    options = parser.parse_args(arguments[:end], argparse.Namespace(command=arguments[end + 1 :]))
    if options.dry_run:
        for line in commands(options):
            print(shlex.join(line))
        codes = ", ".join(map(str, RESTART_CODES))
        print(f"jaxdp (dry run): again up to {options.restarts} times after exit codes {codes}", file=sys.stderr)
        return 0
    return Supervisor(options, MergedLog(workdir_of(options.command))).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
