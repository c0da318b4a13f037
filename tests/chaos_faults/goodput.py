"""SIGKILL again and again, and what the goodput of the run makes of it, against what was seen from outside."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from chaos_faults.workshop import ENDLESS, Row, Workshop, expect, newest, wait_for
from jaxdp.report.goodput import Goodput, goodput

OPTIONS = ["--cpu_devices=2", "--config.checkpoint.every_steps=100"]

WITHIN_TRAINING_SECS = 3.0
WITHIN_START_SECS = 8.0
START_EVERY = 6
"""Every sixth kill comes before training begins, as far as that takes."""

MAX_PAUSE_SECS = 2.0

TAIL_BYTES = 2**13
"""More than a line of metrics."""

TOLERANCE = 0.01
"""Of the wall time."""


def goodput_of_kills(workshop: Workshop, num_kills: int) -> Iterator[Row]:
    """The buckets are the wall time that was measured outside; lost steps and downtime are those that were seen."""
    draws, workdir = workshop.draws("goodput"), workshop.directory / "killed"
    begin = time.time()
    lost_steps, lost_secs, dead_secs, num_begun, num_trained, ended = 0, 0.0, 0.0, 0, 0, None
    for count in range(num_kills):
        started = time.time()
        dead_secs += started - ended if ended else 0.0
        run = workshop.start(workdir, ENDLESS, *OPTIONS)
        if count % START_EVERY == START_EVERY - 1:
            time.sleep(draws.uniform(0.0, WITHIN_START_SECS))
        else:
            wait_for(lambda started=started: trains(workdir, started), "a step is done", run)
            time.sleep(draws.uniform(0.0, WITHIN_TRAINING_SECS))
        run.kill()
        ended = time.time()
        expect(run.process.returncode == -9, f"it ended by itself, with {run.process.returncode}:\n{run.said()}")
        if has_begun(workdir, started):
            num_begun += 1
        else:  # killed while Python imported jaxdp, so nothing tells that it lived
            dead_secs += ended - started
        if trains(workdir, started):
            num_trained += 1
            steps, secs = lost_by(workdir, started, ended)
            lost_steps, lost_secs = lost_steps + steps, lost_secs + secs
        check(goodput(workdir), ended - begin)
        print(f"{count + 1} kills, step {newest(workdir)}, {lost_steps} steps lost", file=sys.stderr, flush=True)
        time.sleep(draws.uniform(0.0, MAX_PAUSE_SECS))
    last = (newest(workdir) or 0) + 5
    dead_secs += time.time() - ended
    workshop.finish(workdir, *OPTIONS, f"--config.total_steps={last}")
    wall_secs = time.time() - begin
    found = goodput(workdir)
    check(found, wall_secs)
    expect((found.num_starts, found.num_steps) == (num_begun + 1, last), f"{found}, expected {num_begun + 1} starts")
    surplus = found.lost_steps - lost_steps
    expect(0 <= surplus <= num_trained, f"{found.lost_steps} lost steps, but {lost_steps} lines were lost")
    for bucket, seen_secs in (("lost", lost_secs), ("downtime", dead_secs)):
        off = abs(found.buckets[bucket] - seen_secs) / wall_secs
        expect(off < 0.05, f"{bucket}: {found.buckets[bucket]:.1f} s, seen from outside {seen_secs:.1f} s")
    shares = ", ".join(f"{bucket} {found.share(bucket):.1%}" for bucket in found.buckets)
    yield Row(
        "goodput",
        f"SIGKILL at random instants of one run, {num_kills - num_trained} before training began, "
        f"{num_kills - num_begun} of them during imports",
        str(num_kills),
        f"buckets {found.wall_secs:.2f} s, measured {wall_secs:.2f} s ({found.wall_secs / wall_secs - 1:+.2%}); "
        f"{found.lost_steps} lost steps, {lost_steps} lines were lost ({surplus} more in {num_trained} kills); lost "
        f"{found.buckets['lost']:.1f} s, seen {lost_secs:.1f} s; downtime {found.buckets['downtime']:.1f} s, seen "
        f"{dead_secs:.1f} s; {shares}",
    )


def check(found: Goodput | None, wall_secs: float) -> None:
    """The buckets add up to the measured wall time, and none is negative."""
    expect(found is not None and min(found.buckets.values()) >= 0.0, f"{found}")
    off = abs(found.wall_secs - wall_secs)
    # The interpreter starts before jaxdp does, and a kill may come a second after the last sign of life.
    expect(off < TOLERANCE * wall_secs + 2.0, f"buckets: {found.wall_secs:.2f} s, measured: {wall_secs:.2f} s")


def seen(workdir: Path) -> list[dict]:
    """The whole lines of the metrics."""
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.is_file() else []


def has_begun(workdir: Path, started: float) -> bool:
    """Returns whether a start since this time has written its first log line."""
    log = workdir / "logs" / "timeline.jsonl"
    return log.is_file() and any(
        line["event"] == "start" and line["time"] > started for line in map(json.loads, log.read_text().splitlines())
    )


def trains(workdir: Path, started: float) -> bool:
    """Returns whether a step has been completed since this time."""
    path = workdir / "metrics.jsonl"
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
        *whole, _ = file.read().split(b"\n")
    return bool(whole) and json.loads(whole[-1])["time"] > started


def lost_by(workdir: Path, started: float, ended: float) -> tuple[int, float]:
    """Steps after the newest checkpoint, and the seconds since its step or since the first step of this start."""
    saved, lines = newest(workdir) or 0, seen(workdir)
    own = [line for line in lines if line["time"] > started]
    before = [line["time"] for line in own if line["step"] <= saved]
    return own[-1]["step"] - saved, ended - (before[-1] if before else own[0]["time"])
