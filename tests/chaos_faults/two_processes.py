"""Signals to one of two processes of a run, which goes on after each of them."""

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from chaos_faults.workshop import (
    ENDLESS,
    Row,
    Run,
    Workshop,
    expect,
    expect_same_end,
    expect_whole,
    name_of,
    newest,
    size_of_metrics,
    wait_for,
)

WATCHDOG_SECS = 5
AFTER_WATCHDOG_SECS = 15
"""For noticing, writing the stacks, and what of a save was under way."""

OPTIONS = [
    "--cpu_devices=1", "--config.checkpoint.every_steps=10", "--config.parallel.check_every_steps=10",
    f"--config.parallel.watchdog_secs={WATCHDOG_SECS}",
]  # fmt: skip


def two_processes(workshop: Workshop) -> Iterator[Row]:
    """One run suffers all of them in turn; its end is bitwise that of an undisturbed one of two processes."""
    workdir = workshop.directory / "two"
    rows = [fault(workshop, workdir) for fault in (_delayed_and_asked_to_stop, _stopped, _killed)]
    resumed = newest(workdir)
    last = resumed + 15
    undisturbed = workshop.directory / "two_undisturbed"
    for run in _finish_two(workshop, workdir, last):
        expect(f"resuming from checkpoint {resumed} of {last} steps" in run.said(), run.said())
    _finish_two(workshop, undisturbed, last)
    expect_same_end(workdir, undisturbed, last)
    yield from rows
    yield Row("all of these", "one run of two processes in turn", "1", f"{last} steps end bitwise as undisturbed")


def _delayed_and_asked_to_stop(workshop: Workshop, workdir: Path) -> Row:
    """SIGSTOP for less than the watchdog's time changes nothing; SIGTERM to process 1 stops both after the same step."""
    runs = _train_a_while(workshop, workdir)
    runs[1].send(signal.SIGSTOP)
    time.sleep(WATCHDOG_SECS / 2)
    runs[1].send(signal.SIGCONT)
    _wait_for_steps(workdir, runs)
    runs[1].send(signal.SIGTERM)
    codes = [run.code() for run in runs]
    expect(codes == [75, 75], f"exit codes {codes}; they said:\n{_both(runs)}")
    stops = [re.findall(r"stopped after step (\d+) of", run.said()) for run in runs]
    expect(stops[0] == stops[1] == [str(newest(workdir))], f"stopped after {stops}, saved {newest(workdir)}")
    expect_whole(workdir)
    return Row(
        "SIGTERM to process 1 of 2",
        f"after a delay of {WATCHDOG_SECS / 2:g} s by SIGSTOP and SIGCONT, which the run sits out",
        "1",
        "both save the same step and exit 75",
    )


def _stopped(workshop: Workshop, workdir: Path) -> Row:
    """SIGSTOP for ever: the other one's watchdog ends it."""
    saved = newest(workdir)
    runs = _train_a_while(workshop, workdir, saved)
    runs[1].send(signal.SIGSTOP)
    code, secs = _timed_end(runs[0])
    runs[1].kill()
    expect(
        code == 70 and "jaxdp: watchdog: no progress while training" in runs[0].said(), f"exit {code}:\n{_both(runs)}"
    )
    expect_whole(workdir)
    return Row(
        "SIGSTOP of process 1 of 2",
        f"parallel.watchdog_secs={WATCHDOG_SECS}",
        "1",
        f"process 0 exits {code} after {secs:.1f} s and says which phase hung; the stopped one is ended; resumed",
    )


def _killed(workshop: Workshop, workdir: Path) -> Row:
    """SIGKILL: the other one hears of it at once."""
    runs = _train_a_while(workshop, workdir, newest(workdir))
    runs[1].kill()
    code, secs = _timed_end(runs[0])
    expect(
        code == 70 and re.search(r"process 1 on \S+ is gone", runs[0].said()) is not None,
        f"exit {code}:\n{_both(runs)}",
    )
    expect_whole(workdir)
    return Row(
        "SIGKILL of process 1 of 2", "while it trains", "1", f"process 0 exits {code} after {secs:.1f} s; resumed"
    )


def _train_a_while(workshop: Workshop, workdir: Path, saved: int | None = None) -> list[Run]:
    """Both processes, past the first save; they begin at `saved`."""
    runs = workshop.start_two(workdir, ENDLESS, *OPTIONS)
    wait_for(lambda: (newest(workdir) or 0) > (saved or 0), "a save", *runs)
    _wait_for_steps(workdir, runs)
    for run in runs:
        expect(saved is None or f"resuming from checkpoint {saved} of" in run.said(), run.said())
    return runs


def _wait_for_steps(workdir: Path, runs: list[Run]) -> None:
    """A few more steps are done."""
    size = size_of_metrics(workdir)
    wait_for(lambda: size_of_metrics(workdir) > size + 1000, "more steps", *runs)


def _timed_end(run: Run) -> tuple[int, float]:
    """Exit code, and how long that took; not for ever."""
    start = time.monotonic()
    code = run.code(WATCHDOG_SECS + AFTER_WATCHDOG_SECS)
    expect(code != 0, "exit code 0")
    return code, time.monotonic() - start


def _finish_two(workshop: Workshop, workdir: Path, last: int) -> list[Run]:
    runs = workshop.start_two(workdir, f"--config.total_steps={last}", *OPTIONS)
    codes = [run.code() for run in runs]
    expect(codes == [0, 0], f"exit codes {list(map(name_of, codes))}; they said:\n{_both(runs)}")
    return runs


def _both(runs: list[Run]) -> str:
    return "\n".join(f"--- process {index}:\n{run.said()}" for index, run in enumerate(runs))
