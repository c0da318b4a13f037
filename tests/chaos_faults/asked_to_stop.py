"""SIGTERM at random instants of a run that is started again and again by the same command."""

import re
import signal
import time
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
AT_START_SECS = 0.8
"""Less than a start takes with everything compiled before."""
IN_TRAINING_SECS = 1.5
MORE_STEPS = 15


def asked_to_stop(workshop: Workshop, num_signals: int) -> Iterator[Row]:
    """By turns while a start prepares, compiles and restores, and while it trains."""
    draws, workdir = workshop.draws("asked to stop"), workshop.directory / "asked"
    before_a_step = 0
    for number in range(num_signals):
        before, steps = newest(workdir), size_of_metrics(workdir)
        run = workshop.start(workdir, ENDLESS, *OPTIONS)
        if number % 2:
            wait_for(lambda steps=steps: size_of_metrics(workdir) > steps, "a step is done", run)
            time.sleep(draws.uniform(0.0, IN_TRAINING_SECS))
        else:  # signals are listened for before the lock is taken
            wait_for(lambda: _is_locked(workdir), "the lock is taken", run)
            time.sleep(draws.uniform(0.0, AT_START_SECS))
        run.send(signal.SIGTERM)
        code = run.code()
        said = run.said()
        expect(code == 75 and "Traceback" not in said, f"exit code {code}; it said:\n{said}")
        after = re.search(r"stopped after step (\d+) of", said)
        before_a_step += after is None
        wanted = int(after[1]) if after else before
        expect(
            newest(workdir) == wanted,
            f"checkpoint {newest(workdir)} is the newest, expected {wanted}; it said:\n{said}",
        )
        expect_whole(workdir)
    last = (newest(workdir) or 0) + MORE_STEPS
    workshop.finish(workdir, *OPTIONS, f"--config.total_steps={last}")
    undisturbed = workshop.directory / "not_asked"
    workshop.finish(undisturbed, *OPTIONS, f"--config.total_steps={last}", "--config.checkpoint.every_steps=0")
    expect_same_end(workdir, undisturbed, last)
    yield Row(
        "SIGTERM",
        f"at random instants of one run, {before_a_step} before the first step of a start",
        str(num_signals),
        f"exit 75 each time, the step that was reached is saved; {last} steps end bitwise as undisturbed",
    )


def _is_locked(workdir: Path) -> bool:
    """Whether a process has written its name into the lock."""
    lock = workdir / "run.lock"
    return lock.is_file() and lock.stat().st_size > 0
