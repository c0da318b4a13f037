"""Terminals that go away while a run trains: a pipe without a reader, a full disk, closed streams, a hang-up."""

import contextlib
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from chaos_faults.workshop import (
    ENDLESS,
    Row,
    Workshop,
    expect,
    expect_same_end,
    expect_whole,
    newest,
    size_of_metrics,
    wait_for,
)

OPTIONS = ["--cpu_devices=2", "--config.checkpoint.every_steps=20"]
STEPS = 60
MORE_STEPS = 15

LOST = {
    "a pipe whose reader leaves (`| head -n 3`)": '("$@" 2>&1; echo $? >"$CODE") | head -n 3 >/dev/null; exit $(cat "$CODE")',
    "stderr on a full disk (/dev/full)": 'exec "$@" 2>/dev/full',
    "closed streams (`0>&- 1>&- 2>&-`)": 'exec "$@" 0>&- 1>&- 2>&-',
}
"""How the terminal is lost, and a shell that does so."""

IN_A_SESSION = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes the terminal at stdin the controlling one, whose end sends SIGHUP."""


def lost_terminal(workshop: Workshop) -> Iterator[Row]:
    """The run ends as if it had been read to its end, or saves where the terminal hangs up."""
    undisturbed = workshop.directory / "read"
    workshop.finish(undisturbed, *OPTIONS, f"--config.total_steps={STEPS}")
    for number, (how, shell) in enumerate(LOST.items()):
        workdir = workshop.directory / f"unread_{number}"
        command = ["sh", "-c", shell, "sh", *workshop.command(workdir, *OPTIONS, f"--config.total_steps={STEPS}")]
        code = subprocess.run(
            command, env=workshop.environment | {"CODE": str(workshop.directory / "code")}, timeout=180
        ).returncode
        said = log_of(workdir).read_text(encoding="utf-8")
        expect(code == 0 and f"finished {STEPS} steps" in said, f"{how}: exit code {code}; its log:\n{said}")
        expect_same_end(workdir, undisturbed, STEPS)
        yield Row("terminal gone", how, "1", f"the log goes on, exit 0, {STEPS} steps end bitwise as undisturbed")
    yield _hang_up(workshop)


def _hang_up(workshop: Workshop) -> Row:
    workdir = workshop.directory / "hung_up"
    terminal, of_process = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_SESSION, *workshop.command(workdir, ENDLESS, *OPTIONS)],
        env=workshop.environment, stdin=of_process, stdout=of_process, stderr=of_process,
    )  # fmt: skip
    os.close(of_process)
    run = workshop.adopt(process, log_of(workdir))
    stopping = threading.Event()
    reader = threading.Thread(target=_read, args=(terminal, stopping))
    reader.start()
    try:
        wait_for(lambda: size_of_metrics(workdir) > 0, "a step is done", run)
    finally:
        stopping.set()
        reader.join()
        os.close(terminal)
    code, said = run.code(), run.said()
    expect(
        code == 75 and "SIGHUP: saving after this step" in said and "Traceback" not in said,
        f"exit code {code}; its log:\n{said}",
    )
    expect_whole(workdir)
    last = newest(workdir) + MORE_STEPS
    again = workshop.finish(workdir, *OPTIONS, f"--config.total_steps={last}")
    expect(f"resuming from checkpoint {last - MORE_STEPS} of {last}" in again, again)
    undisturbed = workshop.directory / "not_hung_up"
    workshop.finish(undisturbed, *OPTIONS, f"--config.total_steps={last}", "--config.checkpoint.every_steps=0")
    expect_same_end(workdir, undisturbed, last)
    return Row(
        "terminal gone",
        "the terminal closes (SIGHUP)",
        "1",
        f"exit 75, the step is saved; {last} steps end bitwise as undisturbed",
    )


def log_of(workdir: Path) -> Path:
    return workdir / "logs" / "process_0.log"


def _read(terminal: int, stopping: threading.Event) -> None:
    """Takes what the process prints, which else would stop it."""
    os.set_blocking(terminal, False)
    while not stopping.wait(0.01):
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 1 << 16)
