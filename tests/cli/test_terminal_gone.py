"""A run does not end because its terminal does."""

import contextlib
import errno
import io
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest
from tiny_runs import environment, metrics_lines, train

from jaxdp.training import run_outputs as run_files
from jaxdp.watchdog import Watchdog

FEW = ["--config.total_steps=3", "--config.eval.every_steps=0", "--config.checkpoint.every_steps=0"]


IN_A_SESSION = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes the terminal at stdin the controlling one, whose end sends SIGHUP."""


class Gone(io.StringIO):
    """A terminal that goes away after some writes."""

    def __init__(self, error, after):
        super().__init__()
        self.error, self.left = error, after

    def write(self, text):
        if self.left == 0:
            raise self.error
        self.left -= 1
        return super().write(text)


@pytest.mark.parametrize(
    ("error", "after"),
    [
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 2),
        (OSError(errno.ENOSPC, "No space left on device"), 0),
        (OSError(errno.EIO, "Input/output error"), 6),
    ],
    ids=["head", "full disk", "hung up"],
)
def test_the_run_and_its_log_go_on(config_file, tmp_path, monkeypatch, error, after):
    monkeypatch.setattr(sys, "stderr", Gone(error, after))
    assert train(config_file, tmp_path, *FEW) == 0
    assert [line["step"] for line in metrics_lines(tmp_path)] == [1, 2, 3]
    log = (tmp_path / "logs" / "process_0.log").read_text()
    assert f"the terminal can no longer be written ({error.strerror}); messages go to the log alone" in log
    assert "finished 3 steps" in log and "Traceback" not in log


def test_a_full_log_is_given_up_too(config_file, tmp_path, monkeypatch):
    """The run goes on with its metrics and checkpoints alone."""
    monkeypatch.setattr(run_files._LogFile, "_open", lambda self: open("/dev/full", "w", encoding="utf-8"))  # noqa: SIM115
    monkeypatch.setattr(sys, "stderr", Gone(OSError(errno.ENOSPC, "No space left on device"), 0))
    assert train(config_file, tmp_path, *FEW) == 0
    assert [line["step"] for line in metrics_lines(tmp_path)] == [1, 2, 3]


def test_closed_streams(config_file, compilation_cache, tmp_path):
    closing = 'exec "$@" 0>&- 1>&- 2>&-'
    command = [sys.executable, "-m", "jaxdp", "train", f"--config={config_file}", f"--workdir={tmp_path}", *FEW]
    finished = subprocess.run(["sh", "-c", closing, "sh", *command], env=environment(compilation_cache), timeout=120)
    assert finished.returncode == 0
    assert "finished 3 steps" in (tmp_path / "logs" / "process_0.log").read_text()


def test_a_terminal_that_closes_saves(config_file, compilation_cache, tmp_path):
    """Its processes get SIGHUP, and can write to it no more."""
    options = ["--config.total_steps=1000000", "--config.optim.schedule=constant", "--config.eval.every_steps=0"]
    command = [sys.executable, "-m", "jaxdp", "train", f"--config={config_file}", f"--workdir={tmp_path}", *options]
    terminal, of_process = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_SESSION, *command], env=environment(compilation_cache),
        stdin=of_process, stdout=of_process, stderr=of_process,
    )  # fmt: skip
    os.close(of_process)
    with contextlib.suppress(OSError):  # the process has ended
        while not ((tmp_path / "metrics.jsonl").is_file() and metrics_lines(tmp_path)):
            os.read(terminal, 1 << 16)
    os.close(terminal)
    assert process.wait(120) == 75
    steps = [line["step"] for line in metrics_lines(tmp_path)]
    assert (tmp_path / "checkpoints" / str(steps[-1]) / "manifest.json").is_file()
    log = (tmp_path / "logs" / "process_0.log").read_text()
    assert "SIGHUP: saving after this step" in log and "Traceback" not in log


def test_the_watchdog_logs_the_stacks_without_a_terminal(tmp_path):
    saved = os.dup(2)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        os.dup2(writer, 2)
        Watchdog(1.0, tmp_path / "log")._report()
    finally:
        os.dup2(saved, 2)
        for descriptor in (saved, writer):
            os.close(descriptor)
    assert "watchdog: no progress" in (tmp_path / "log").read_text()


def test_workers_ignore_a_hang_up(monkeypatch):
    """It reaches all processes of the terminal; the main process ends the workers."""
    from jaxdp.data.preparing import workers

    kept = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    monkeypatch.setattr(workers.threading, "Thread", lambda **_: type("Idle", (), {"start": lambda self: None})())
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "environ", dict(os.environ))
            workers._start_worker(None, threading.Event())
        assert {signal.getsignal(number) for number in kept} == {signal.SIG_IGN}
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
