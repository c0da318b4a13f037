"""A disk that becomes full while a run writes to it."""

import errno
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tiny_runs import assert_same_bits, saved_arrays

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

DISK_BYTES = 4 << 20
MORE_STEPS = 15


def full_disk_at_save(workshop: Workshop) -> Iterator[Row]:
    """Nothing but checkpoints is written, so a save finds the disk full."""
    return _on_small_disk(workshop, "a save", log_every=100000, save_every=10)


def full_disk_at_metrics(workshop: Workshop) -> Iterator[Row]:
    """A line follows every step, and no save is near, so metrics.jsonl finds the disk full."""
    return _on_small_disk(workshop, "metrics.jsonl", log_every=1, save_every=150)


def _on_small_disk(workshop: Workshop, what: str, log_every: int, save_every: int) -> Iterator[Row]:
    disk = workshop.directory / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    try:
        subprocess.run(mounting, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield Row("full disk", "a small file system of its own", "0", "skipped: only root may mount one")
        return
    try:
        yield _fill(workshop, disk, what, log_every, save_every)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _fill(workshop: Workshop, disk: Path, what: str, log_every: int, save_every: int) -> Row:
    """Fills it, makes room, lets the run end."""
    workdir, options = disk / "run", ["--cpu_devices=2", f"--config.checkpoint.every_steps={save_every}"]
    run = workshop.start(workdir, ENDLESS, *options, f"--config.log.every_steps={log_every}")
    wait_for(lambda: (newest(workdir) or 0) > save_every, "a second checkpoint", run)
    filler = disk / "filler"
    _write_until_full(filler)
    code = run.code()
    said = run.said()
    last = newest(workdir)
    expect(last is not None, f"no checkpoint is left; it said:\n{said}")
    expect_whole(workdir)
    filler.unlink()
    end = last + MORE_STEPS
    ending = [*options, f"--config.total_steps={end}", "--config.log.every_steps=1"]
    again = workshop.finish(workdir, *ending)
    expect(f"resuming from checkpoint {last} of {end} steps" in again, again)
    undisturbed = workshop.directory / "enough_room"
    workshop.finish(undisturbed, *ending)
    if log_every == 1:
        expect_same_end(workdir, undisturbed, end)
    else:  # the first start has written few lines
        assert_same_bits(saved_arrays(workdir, end), saved_arrays(undisturbed, end))
    _expect_one_sentence(code, said)
    return Row(
        "full disk",
        f"{what} finds a small file system full",
        "1",
        "exit 2 and a sentence, the checkpoint before intact; with room again the same command ends bitwise as undisturbed"
        + (
            f"; packages below jaxdp print {noise} tracebacks before the sentence"
            if (noise := said.count("Traceback"))
            else ""
        ),
    )


def _expect_one_sentence(code: int, said: str) -> None:
    """The end that the exit codes promise, but for threads of TensorStore that complain by themselves."""
    sentence = said.rstrip().rpartition("\njaxdp: ")[2]
    expect(
        code == 2 and "no space left" in sentence.lower(), f"exit code {code}, in the end it said: {sentence}\n{said}"
    )
    ours = re.search(r'File "[^"]*/jaxdp/', said)
    expect(ours is None, f"exit code 2 and a sentence, but also a traceback through jaxdp:\n{said}")


def _write_until_full(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
