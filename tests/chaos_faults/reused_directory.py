"""Deleted work directory of a run that trains, and another run at the same path."""

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tiny_runs import metrics_lines

from chaos_faults.workshop import (
    ENDLESS,
    Row,
    Run,
    Workshop,
    expect,
    expect_same_end,
    expect_whole,
    newest,
    wait_for,
)

OPTIONS = ["--cpu_devices=2", "--config.checkpoint.every_steps=5", "--config.checkpoint.keep_latest=3"]
LAST = 60
"""Steps of the second run."""

OTHER = "--config.seed=1"
"""Of the second run, so that nothing of the first one can pass for its own."""

MAX_DELAY_SECS = 0.4
"""Longer than a save takes: the directory goes at any instant of one."""


def reused_directory(workshop: Workshop, times: int) -> Iterator[Row]:
    """The first run ends with one sentence; the second one's files are those of an undisturbed run."""
    draws, undisturbed = workshop.draws("reused directory"), workshop.directory / "not_reused"
    workshop.finish(undisturbed, *OPTIONS, OTHER, f"--config.total_steps={LAST}")
    for turn in range(times):
        workdir = workshop.directory / f"reused_{turn}"
        first = workshop.start(workdir, ENDLESS, *OPTIONS)
        wait_for(lambda workdir=workdir: (newest(workdir) or 0) > 20, "a few checkpoints", first)
        time.sleep(draws.uniform(0.0, MAX_DELAY_SECS))
        # By turns it trains while its directory goes, and sleeps until the second run has saved.
        sleeps = turn % 2 == 1
        if sleeps:
            first.send(signal.SIGSTOP)
        _delete(workdir)
        second = workshop.start(workdir, *OPTIONS, OTHER, f"--config.total_steps={LAST}")
        if sleeps:
            wait_for(lambda workdir=workdir: (newest(workdir) or 0) > 10, "a few checkpoints of the second run", second)
            first.send(signal.SIGCONT)
        _expect_stopped(first)
        code = second.code()
        expect(code == 0, f"the second run ended with {code}; it said:\n{second.said()}")
        _expect_its_own(workdir, undisturbed)
    yield Row(
        "work directory deleted and used again",
        f"at random instants of a run, by turns while it trains and while it is stopped (SIGSTOP) until a second run of "
        f"{LAST} steps has saved at the same path",
        str(times),
        "the first run exits 2 with one sentence; files of the second are those of an undisturbed run, its end bitwise",
    )


def _delete(workdir: Path) -> None:
    """What a save under way makes again goes too."""
    while workdir.exists():
        shutil.rmtree(workdir, ignore_errors=True)


def _expect_stopped(run: Run) -> None:
    code = run.code()
    said = run.said()
    sentences = [line for line in said.splitlines() if line.startswith("jaxdp: ")]
    told = len(sentences) == 1 and "was deleted, moved or replaced while this run trained in it" in sentences[0]
    expect(code == 2 and told and "Traceback" not in said, f"exit code {code}; it said:\n{said}")


def _expect_its_own(workdir: Path, undisturbed: Path) -> None:
    expect_whole(workdir)
    names, wanted = (sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (workdir, undisturbed))
    expect(names == wanted, f"{workdir}/checkpoints holds {names}, expected {wanted}")
    names, wanted = (sorted(path.name for path in run.iterdir()) for run in (workdir, undisturbed))
    expect(names == wanted, f"{workdir} holds {names}, expected {wanted}")
    steps = [line["step"] for line in metrics_lines(workdir)]
    expect(steps == list(range(1, LAST + 1)), f"metrics.jsonl has steps {steps}")
    expect_same_end(workdir, undisturbed, LAST)
