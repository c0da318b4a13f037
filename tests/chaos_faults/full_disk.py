"""A disk that becomes full while a run writes to it."""

import errno
import subprocess
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
    wait_for,
)
from tiny_runs import assert_same_bits, saved_arrays

OPTIONS = ["--cpu_devices=2", "--config.checkpoint.every_steps=10"]
DISK_BYTES = 4 << 20


def full_disk(workshop: Workshop) -> Iterator[Row]:
    """Once a save finds the disk full, once the file of metrics; after making room the run ends as undisturbed."""
    disk = workshop.directory / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    try:
        subprocess.run(mounting, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        yield Row("full disk", "a small file system of its own", "0", "skipped: only root may mount one")
        return
    try:
        yield _fill(workshop, disk, "a save", log_every=100000)
        yield _fill(workshop, disk, "metrics.jsonl", log_every=1)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _fill(workshop: Workshop, disk: Path, what: str, log_every: int) -> Row:
    workdir, logging = disk / f"every_{log_every}", f"--config.log.every_steps={log_every}"
    run = workshop.start(workdir, ENDLESS, *OPTIONS, logging)
    wait_for(lambda: (newest(workdir) or 0) > 10, "a second checkpoint", run)
    filler = disk / "filler"
    _write_until_full(filler)
    code = run.code()
    said = run.said()
    last = newest(workdir)
    expect(last is not None, f"no checkpoint is left; it said:\n{said}")
    expect_whole(workdir)
    filler.unlink()
    end = last + 15
    again = workshop.finish(workdir, *OPTIONS, f"--config.total_steps={end}", "--config.log.every_steps=1")
    expect(f"resuming from checkpoint {last} of {end} steps" in again, again)
    undisturbed = workshop.directory / f"enough_room_{log_every}"
    workshop.finish(undisturbed, *OPTIONS, f"--config.total_steps={end}", "--config.log.every_steps=1")
    if log_every == 1:
        expect_same_end(workdir, undisturbed, end)
    else:  # the lines of the first start are few
        _expect_same_state(workdir, undisturbed, end)
    expect(code == 2 and "Traceback" not in said and "No space left on device" in said, f"exit code {code}; it said:\n{said}")
    subprocess.run(["rm", "-r", str(workdir)], check=True)
    return Row(
        "full disk",
        f"{what} finds a small file system full",
        "1",
        "exit 2 and a sentence, the checkpoint before intact; with room again the same command ends bitwise as undisturbed",
    )


def _expect_same_state(workdir: Path, undisturbed: Path, step: int) -> None:
    assert_same_bits(saved_arrays(workdir, step), saved_arrays(undisturbed, step))


def _write_until_full(path: Path) -> None:
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
