"""The directory of the checkpoints is gone in the middle of a run, as when a file system is unmounted."""

from collections.abc import Iterator

from chaos_faults.workshop import (
    ENDLESS,
    Row,
    Workshop,
    expect,
    expect_same_end,
    expect_whole,
    newest,
    wait_for,
)

OPTIONS = ["--cpu_devices=2", "--config.checkpoint.every_steps=20"]
MORE_STEPS = 15


def lost_directory(workshop: Workshop) -> Iterator[Row]:
    """The run ends at its next save and makes no new directory; when the old one is back it goes on."""
    workdir = workshop.directory / "lost"
    checkpoints, away = workdir / "checkpoints", workdir / "away"
    run = workshop.start(workdir, ENDLESS, *OPTIONS)
    wait_for(lambda: (newest(workdir) or 0) > 20, "a second checkpoint", run)
    checkpoints.rename(away)
    code = run.code()
    said = run.said()
    expect(
        code == 2 and "could not be written to" in said and "Traceback" not in said,
        f"exit code {code}; it said:\n{said}",
    )
    expect(newest(workdir) is None, f"a checkpoint was made in a new directory; it said:\n{said}")
    if checkpoints.exists():  # a save that was under way may have left its parts
        checkpoints.rename(workdir / "parts")
    away.rename(checkpoints)
    saved = newest(workdir)
    expect_whole(workdir)
    last = saved + MORE_STEPS
    again = workshop.finish(workdir, *OPTIONS, f"--config.total_steps={last}")
    expect(f"resuming from checkpoint {saved} of {last} steps" in again, again)
    undisturbed = workshop.directory / "not_lost"
    workshop.finish(undisturbed, *OPTIONS, f"--config.total_steps={last}", "--config.checkpoint.every_steps=0")
    expect_same_end(workdir, undisturbed, last)
    yield Row(
        "lost directory",
        "checkpoints/ renamed while the run trains, and back after its end",
        "1",
        "exit 2 and a sentence at the next save; the same command ends bitwise as undisturbed",
    )
