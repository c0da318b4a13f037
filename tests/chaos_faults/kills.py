"""SIGKILL at random instants of a run that is started again and again by the same command."""

import re
import sys
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
    newest,
    wait_for,
)
from jaxdp.checkpoint.manifest import committed_steps

OPTIONS = ["--cpu_devices=2", "--config.checkpoint.every_steps=20", "--config.checkpoint.keep_latest=2"]

WITHIN_TRAINING_SECS = 1.5
WITHIN_SAVE_SECS = 0.3
"""About what a save takes on a disk that is slow to sync."""

WITHIN_START_SECS = 5.0
START_EVERY = 5
"""Of the kills that are not aimed at a save every fifth comes before training begins, as far as that takes."""

REPORT_EVERY = 10
MORE_STEPS = 15
"""After the last kill; no multiple of a save."""


def kills(workshop: Workshop, num_kills: int) -> Iterator[Row]:
    """Half of the kills, or more, are within saves; at the end it is bitwise the undisturbed run."""
    draws, workdir = workshop.draws("kills"), workshop.directory / "killed"
    watch = Watch(workdir)
    count = in_saves = before_manifest = in_deletions = at_start = 0
    resumed = set()
    while count < num_kills or in_saves < num_kills // 2:
        expect(count < 2 * num_kills + 10, f"{count} kills, but only {in_saves} within saves")
        before = newest(workdir)
        changed, started = changed_at(workdir), time.time()
        run = workshop.start(workdir, ENDLESS, *OPTIONS)
        if count % 2:
            wait_for(watch.sees_new_save, "a save begins", run)
            delay = draws.uniform(0.0, WITHIN_SAVE_SECS)
        elif count % (2 * START_EVERY) == 0 and count:
            delay, at_start = draws.uniform(0.0, WITHIN_START_SECS), at_start + 1
        else:
            wait_for(lambda changed=changed: changed_at(workdir) != changed, "a step is done", run)
            delay = draws.uniform(0.0, WITHIN_TRAINING_SECS)
        watch.for_secs(delay, run)
        run.kill()
        expect(run.process.returncode == -9, f"it ended by itself, with {run.process.returncode}:\n{run.said()}")
        count += 1
        expect_resumed(run, before)
        watch.expect_none_lost()
        expect_whole(workdir)
        being_written, without_manifest = unfinished_saves(workdir, started)
        in_saves += being_written or without_manifest
        before_manifest += without_manifest
        in_deletions += any(workdir.glob("checkpoints/*.deleting"))
        resumed.add(newest(workdir))
        if count % REPORT_EVERY == 0:
            print(f"{count} kills, {in_saves} within saves, step {newest(workdir)}", file=sys.stderr, flush=True)
    saved = newest(workdir)
    last = saved + MORE_STEPS
    said = workshop.finish(workdir, *OPTIONS, f"--config.total_steps={last}")
    expect(f"resuming from checkpoint {saved} of {last}" in said, said)
    undisturbed = workshop.directory / "not_killed"
    workshop.finish(undisturbed, *OPTIONS, f"--config.total_steps={last}", "--config.checkpoint.every_steps=0")
    expect_same_end(workdir, undisturbed, last)
    yield Row(
        "SIGKILL",
        f"at random instants of one run, {in_saves} within a save ({before_manifest} of them between its arrays and its "
        f"manifest), {in_deletions} within a deletion, {at_start} aimed at a start",
        str(count),
        f"no checkpoint lost, every start resumed from the newest whole one ({len(resumed)} different), "
        f"{last} steps end bitwise as undisturbed",
    )


class Watch:
    """Looks at the checkpoints while they come and go."""

    def __init__(self, workdir: Path):
        self._checkpoints = workdir / "checkpoints"
        self._names: set[str] = set()
        self._whole: set[int] = set()

    def sees_new_save(self) -> bool:
        """Whether a directory has appeared that is not a checkpoint yet."""
        names = {path.name for path in self._checkpoints.glob("*")}
        new, self._names = names - self._names, names
        self._whole.update(committed_steps(self._checkpoints))
        return any(".orbax-checkpoint-tmp" in name for name in new)

    def for_secs(self, secs: float, run: Run) -> None:
        """Remembers every checkpoint that becomes whole in this time."""
        end = time.monotonic() + secs
        while time.monotonic() < end and run.process.poll() is None:
            self._whole.update(committed_steps(self._checkpoints))
            time.sleep(min(0.002, max(end - time.monotonic(), 0.0)))

    def expect_none_lost(self) -> None:
        """Of all that were whole once only those are gone that two newer ones allow to delete."""
        there = committed_steps(self._checkpoints)
        self._whole.update(there)
        missing = set(sorted(self._whole)[-2:]) - set(there)
        expect(not missing, f"checkpoints {sorted(missing)} were whole and are gone; there are {there}")


def changed_at(workdir: Path) -> int:
    """When the file of metrics was changed."""
    metrics = workdir / "metrics.jsonl"
    return metrics.stat().st_mtime_ns if metrics.is_file() else 0


def unfinished_saves(workdir: Path, started: float) -> tuple[bool, bool]:
    """Whether the kill left arrays that were being written, and whether it left whole ones without a manifest.

    What an earlier kill left does not count, where this one came before it was removed.
    """
    left = [
        path
        for path in workdir.glob("checkpoints/*")
        if not (path / "manifest.json").is_file() and path.stat().st_ctime >= started
    ]
    return any(".orbax-checkpoint-tmp" in path.name for path in left), any(
        re.fullmatch(r"\d+\.saving-[0-9a-f]+", path.name) for path in left
    )


def expect_resumed(run: Run, before: int | None) -> None:
    """Unless it was killed before it could say so, it went on from the newest checkpoint there was."""
    said = run.said()
    expect("damaged" not in said and "Traceback" not in said, said)
    steps = re.findall(r"resuming from checkpoint (\d+) of", said)
    started = re.search(r"^step ", said, re.MULTILINE)
    expect(
        steps in ([str(before)], []) and not (started and before and not steps),
        f"checkpoint {before} is the newest:\n{said}",
    )
