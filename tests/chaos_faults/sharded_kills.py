"""SIGKILL of either of two processes that hold a sharded state, at random instants and within saves."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from chaos_faults.kills import (
    MORE_STEPS,
    REPORT_EVERY,
    WITHIN_TRAINING_SECS,
    Watch,
    changed_at,
    expect_resumed,
    unfinished_saves,
)
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
    wait_for,
)

WITHIN_SAVE_SECS = 0.05
"""A save of this small state by two processes is over after about this time."""

OPTIONS = [
    "--cpu_devices=2", "--config.checkpoint.every_steps=20", "--config.checkpoint.keep_latest=2",
    "--config.parallel.sync=zero3", "--config.model.embed_dim=64",
]  # fmt: skip


def sharded_kills(workshop: Workshop, num_kills: int) -> Iterator[Row]:
    """Half of the kills, or more, are within saves; at the end it is bitwise the undisturbed run."""
    draws, workdir = workshop.draws("sharded kills"), workshop.directory / "sharded"
    watch, count, in_saves, of_process = Watch(workdir), 0, 0, [0, 0]
    resumed = set()
    while count < num_kills or in_saves < num_kills // 2:
        expect(count < 2 * num_kills + 10, f"{count} kills, but only {in_saves} within saves")
        before, changed, started = newest(workdir), changed_at(workdir), time.time()
        runs, victim = workshop.start_two(workdir, ENDLESS, *OPTIONS), draws.randrange(2)
        if count % 4:  # a survivor may still commit the save, so more are aimed at saves than must meet one
            wait_for(watch.sees_new_save, "a save begins", *runs)
            delay = draws.uniform(0.0, WITHIN_SAVE_SECS)
        else:
            wait_for(lambda changed=changed: changed_at(workdir) != changed, "a step is done", *runs)
            delay = draws.uniform(0.0, WITHIN_TRAINING_SECS)
        watch.for_secs(delay, runs[victim])
        runs[victim].kill()
        expect(runs[victim].process.returncode == -9, f"it ended by itself:\n{runs[victim].said()}")
        _expect_named(runs, victim)
        count, of_process[victim] = count + 1, of_process[victim] + 1
        for run in runs:
            expect_resumed(run, before)
        watch.expect_none_lost()
        expect_whole(workdir)
        in_saves += any(unfinished_saves(workdir, started))
        resumed.add(newest(workdir))
        if count % REPORT_EVERY == 0:
            print(f"{count} kills, {in_saves} within saves, step {newest(workdir)}", file=sys.stderr, flush=True)
    saved = newest(workdir)
    expect(saved is not None, "no checkpoint was ever saved")
    last = saved + MORE_STEPS
    for run in _finish(workshop, workdir, last):
        expect(f"resuming from checkpoint {saved} of {last}" in run.said(), run.said())
    undisturbed = workshop.directory / "sharded_not_killed"
    _finish(workshop, undisturbed, last, "--config.checkpoint.every_steps=0")
    expect_same_end(workdir, undisturbed, last)
    yield Row(
        "SIGKILL of one of two processes, zero3",
        f"process 0 {of_process[0]} times, process 1 {of_process[1]} times; {in_saves} within a save",
        str(count),
        f"no checkpoint lost, the survivor names the other, every start resumed from the newest whole one "
        f"({len(resumed)} different), {last} steps end bitwise as undisturbed",
    )


def _expect_named(runs: list[Run], victim: int) -> None:
    """The survivor of a kill ends by itself and says which process is gone."""
    survivor = runs[1 - victim]
    code = survivor.code(60.0)
    expect(code in (70, -6), f"the survivor ended with {name_of(code)}:\n{survivor.said()}")
    # JAX may abort process 1 before it hears of the loss, as process 0 holds its coordinator.
    expect(code == -6 or f"process {victim} on " in survivor.said(), survivor.said())


def _finish(workshop: Workshop, workdir: Path, last: int, *options: str) -> list[Run]:
    runs = workshop.start_two(workdir, f"--config.total_steps={last}", *OPTIONS, *options)
    codes = [run.code() for run in runs]
    expect(codes == [0, 0], f"exit codes {list(map(name_of, codes))}; they said:\n{runs[0].said()}\n{runs[1].said()}")
    return runs
