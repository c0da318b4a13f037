"""Goodput: the wall time of a run over all its starts in buckets that add up to 100 %.

Computed from `logs/timeline.jsonl` and `logs/heartbeat.json` alone. Steps are
dispatched ahead of their results, so the time of a step is the time between the
readings of the metrics of two steps; in total, the time of the training loop
without the waits for data, evaluations, saves and hooks on the state. While the loop
waits for data the devices may still be busy with the step before: `data_wait` is the
most that slow data can have cost, the same time as in `perf/data_wait`.

Lost work is everything that the loop did after the step from which a later start (or
a rollback) went on: steps, with their waits, evaluations and saves. A step counts
as done once its metrics are read.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdp.report.terminal import duration
from jaxdp.report.timeline import Event, read_record, read_timeline
from jaxdp.watchdog import OUTSIDE, TRAINING
from jaxdp.workdir import WorkDir

BUCKETS = {
    "start_up": "start-up: interpreter, imports, connecting, initialising",
    "data_preparation": "data preparation",
    "compilation": "compilation",
    "restore": "restoring checkpoints",
    "steps": "training steps that count",
    "data_wait": "waiting for data",
    "evaluation": "evaluation",
    "saves": "saves, as far as training waits for them",
    "lost": "lost work: steps after the restored checkpoint",
    "downtime": "downtime between two starts",
    "other": "other: hooks of the user, ending",
}
"""Buckets and their labels, in the order of a table."""

PHASES = {
    OUTSIDE: "other",
    "connecting to the devices": "start_up",
    "preparing the data": "data_preparation",
    "compiling": "compilation",
    "restoring": "restore",
    "rolling back": "restore",
    TRAINING: "steps",
    "evaluating": "evaluation",
    "saving a checkpoint": "saves",
}
"""Phases that have lines in the timeline, and their buckets."""


@dataclasses.dataclass(frozen=True)
class Goodput:
    """Wall time of a run by bucket.

    Attributes:
        buckets: Seconds of each of BUCKETS.
        num_starts: Number of starts.
        num_steps: Number of steps that count.
        lost_steps: Number of steps whose work was lost.
    """

    buckets: Mapping[str, float]
    num_starts: int
    num_steps: int
    lost_steps: int

    @property
    def wall_secs(self) -> float:
        """Seconds from the beginning of the first start to the last sign of life, without the time after a complete run."""
        return sum(self.buckets.values())

    def share(self, bucket: str) -> float:
        """Returns the share of a bucket in the wall time."""
        return self.buckets[bucket] / self.wall_secs if self.wall_secs else 0.0

    def rows(self) -> list[tuple[str, float, float]]:
        """Returns (label, seconds, share) of every bucket, for a table."""
        return [(label, self.buckets[bucket], self.share(bucket)) for bucket, label in BUCKETS.items()]

    def describe(self) -> str:
        """Formats the shares as one line, the largest first; those below 0.05 % are left out."""
        others = sorted((bucket for bucket in BUCKETS if bucket != "steps"), key=lambda bucket: -self.share(bucket))
        shares = [f"{bucket} {self.share(bucket):.1%}" for bucket in others if self.share(bucket) >= 0.0005]
        lost = f" ({self.lost_steps} more were lost)" if self.lost_steps else ""
        starts = f"{self.num_starts} starts" if self.num_starts != 1 else "1 start"
        steps = f"were {self.num_steps} steps that count" if self.num_steps != 1 else "was 1 step that counts"
        return (
            f"{self.share('steps'):.1%} of {duration(self.wall_secs)} in {starts} {steps}{lost}; "
            f"{', '.join(shares) or 'nothing else'}"
        )

    def as_json(self) -> dict[str, Any]:
        """Returns the value of `goodput` in `jaxdp inspect --json`."""
        return {
            "goodput": self.share("steps"),
            "wall_secs": self.wall_secs,
            "secs": dict(self.buckets),
            "starts": self.num_starts,
            "steps": self.num_steps,
            "lost_steps": self.lost_steps,
        }


def goodput(workdir: str | Path) -> Goodput | None:
    """Returns the goodput of a run, which may be running; None if nothing recorded its time, as in earlier versions."""
    directory = WorkDir(workdir, "PATH")
    try:
        events = read_timeline(directory.timeline)
    except OSError:
        return None
    last = read_record(directory.heartbeat)
    return account([*events, {"event": "heartbeat"} | last] if last else events)


@dataclasses.dataclass
class _Piece:
    """Stretch of the training loop between two events.

    Attributes:
        first: Steps finished at its beginning.
        last: Steps finished at its end.
        secs: Seconds by bucket.
    """

    first: float
    last: float
    secs: dict[str, float]

    def lose(self, step: int) -> tuple[float, float]:
        """Takes out the work after a step; returns its (seconds, steps)."""
        is_past = self.last > step or (self.last == step and "steps" in self.secs and self.first == step)
        if not is_past:
            return 0.0, 0.0
        kept = max(step - self.first, 0.0) / (self.last - self.first) if self.last > self.first else 0.0
        lost = sum(self.secs.values()) * (1.0 - kept), self.last - max(self.first, step)
        self.secs = {bucket: secs * kept for bucket, secs in self.secs.items()}
        self.last = min(self.last, max(self.first, step))
        return lost


def account(events: Sequence[Event]) -> Goodput | None:
    """Divides the time of a timeline into buckets; None if it has no start."""
    secs = dict.fromkeys(BUCKETS, 0.0)
    work: list[_Piece] = []
    lost_steps, end, was_complete, num_starts = 0.0, None, False, 0
    for events_of_start in _starts(events):
        num_starts += 1
        begin = events_of_start[0]["begin"]
        if end is not None and not was_complete:
            secs["downtime"] += max(begin - end, 0.0)
        for event, following in itertools.pairwise([events_of_start[0] | {"time": begin}, *events_of_start]):
            if following["event"] == "resume":
                lost = [piece.lose(following["step"]) for piece in work]
                secs["lost"] += sum(lost_secs for lost_secs, _ in lost)
                lost_steps += sum(steps for _, steps in lost)
            spent = _spent(event, following)
            if event["in_loop"]:
                work.append(_Piece(event["step"], following["step"], spent))
            else:
                for bucket, value in spent.items():
                    secs[bucket] += value
        # A start that is refused, e.g. for another configuration, leaves a complete run complete.
        has_resumed = any(event["event"] == "resume" for event in events_of_start)
        was_complete = bool(events_of_start[-1].get("complete")) or (was_complete and not has_resumed)
        end = events_of_start[-1]["time"]
    for piece in work:
        for bucket, value in piece.secs.items():
            secs[bucket] += value
    num_steps = sum(piece.last - piece.first for piece in work)
    return Goodput(secs, num_starts, round(num_steps), round(lost_steps)) if num_starts else None


def _starts(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Yields the events of each start, in order, with what holds after each: `bucket`, `in_loop`, `step`, `wait`, `other`.

    The last event of a start is its end, or the last heartbeat of a process that was killed or still runs.
    """
    starts: list[list[Event]] = []
    beats: dict[float, Event] = {}
    refused: list[tuple[int, Event]] = []
    for event in events:
        if event["event"] == "heartbeat":
            beats[event.get("start", 0.0)] = event
        elif event["event"] == "refused":
            refused.append((len(starts), event))
        elif event["event"] == "start":
            starts.append([event | {"begin": event.get("begin", event["time"])}])
        elif starts:
            starts[-1].append(event)
    for start in starts:
        beat = beats.get(start[0]["begin"])
        if beat and beat["time"] >= start[-1]["time"] and start[-1]["event"] != "end":
            start.append(beat)
    for start in _with_refused(starts, refused):
        yield _with_state(start)


def _with_refused(starts: Sequence[list[Event]], refused: Iterable[tuple[int, Event]]) -> list[list[Event]]:
    """Returns the starts with those that were refused before they recorded more.

    Args:
        starts: Starts that have recorded events.
        refused: (number of starts before it, event "refused"). One that began during another start is left out: it was
            recorded by that start, was refused since the run was in use, or is one of several processes.
    """
    found = list(starts)
    for place, event in refused:
        begin = event.get("begin", event["time"])
        before = found[: place + len(found) - len(starts)]
        if all(begin >= other[-1]["time"] for other in before):
            found.insert(len(before), [{"event": "start", "time": begin, "begin": begin}, event | {"event": "end"}])
    return found


def _with_state(events: Sequence[Event]) -> list[Event]:
    """Returns the events of a start with what holds after each."""
    state: Event = {"bucket": "start_up", "in_loop": False, "step": 0, "wait": 0.0, "other": 0.0}
    found: list[Event] = []
    has_trained = False
    for event in events:
        state = state | {key: event[key] for key in ("step", "wait", "other") if key in event}
        if event["event"] == "resume" and event["step"] == 0 and not has_trained:
            # Nothing was restored: the state was initialised.
            found[-1]["bucket"] = state["bucket"] = "start_up"
        elif event["event"] == "phase":
            bucket = PHASES.get(event.get("phase", ""), "other")
            in_loop = bucket == "steps" or (state["in_loop"] and bucket in ("evaluation", "saves"))
            has_trained |= in_loop
            state |= {"bucket": bucket if bucket != "other" or has_trained else "start_up", "in_loop": in_loop}
        found.append(event | state)
    return found


def _spent(event: Event, following: Event) -> dict[str, float]:
    """Returns the seconds between two events of a start by bucket."""
    secs = max(following["time"] - event["time"], 0.0)
    if event["bucket"] != "steps":
        return {event["bucket"]: secs}
    wait = min(max(following["wait"] - event["wait"], 0.0), secs)
    other = min(max(following["other"] - event["other"], 0.0), secs - wait)
    return {"steps": secs - wait - other, "data_wait": wait, "other": other}
