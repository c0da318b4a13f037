"""Pace of the processes: finds the one that makes the others wait, from times that each measures for itself.

All processes of an SPMD program have the same step time, since each waits in the collectives for the slowest. They
differ in the time that they do not wait for devices: waiting for data, executing hooks, or not being scheduled at
all. That time delays the others only in steps whose result was ready before the process asked for it; a process that
still waits for the devices has dispatched the next step in time.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

MIN_EXCESS = 0.1
"""Share of the step time above which a slow process is worth a warning."""

MIN_EXCESS_SECS = 0.002
"""Seconds a step above which it is: on two cores with a load of 12, scheduling cost one of two equal processes up to
1.9 ms of steps of 18 ms, as a mean of 1.7 s."""

MAX_IDLE_SHARE = 0.05
"""Largest device wait, as a share of a step, of a process that delays the devices."""


class Pace(NamedTuple):
    """Use of the time of the steps since the last line of the log by one process, in shares.

    Attributes:
        late: Time in which the devices of all waited for this process to dispatch a step.
        data_wait: Time waiting for data.
        host: Time in hooks and in dispatching.
        stalled: Time in which the process was not executed: stopped, throttled or starved of CPU time.
    """

    late: float
    data_wait: float
    host: float
    stalled: float

    @property
    def own(self) -> float:
        """Share of the time that the others may have waited for this process."""
        return max(self.late, self.stalled)


class Slowest(NamedTuple):
    """The slowest process.

    Attributes:
        process: Its index.
        excess: Share of the step time that it costs: its own time beyond the median of the others.
        pace: Its pace.
        others: Median of the paces of the others.
    """

    process: int
    excess: float
    pace: Pace
    others: Pace


def find_slowest(paces: Mapping[int, Pace]) -> Slowest | None:
    """Returns the process whose own time exceeds the median of the others most; None for fewer than two processes."""
    if len(paces) < 2:
        return None
    process = max(paces, key=lambda process: paces[process].own)
    rest = [pace for other, pace in paces.items() if other != process]
    others = Pace(*map(statistics.median, zip(*rest, strict=True)))
    return Slowest(process, paces[process].own - others.own, paces[process], others)


def is_slow(slowest: Slowest, step_secs: float) -> bool:
    """Returns whether the slowest process costs enough of a step of this duration for a warning."""
    return slowest.excess > MIN_EXCESS and slowest.excess * step_secs > MIN_EXCESS_SECS


def mean_paces(lines: Sequence[tuple[float, Mapping[int, Pace]]]) -> dict[int, Pace]:
    """Returns the mean pace of each process.

    Args:
        lines: Duration and paces of one line of the log or more, all of the same processes.
    """
    total = sum(secs for secs, _ in lines)

    def mean(process: int) -> Pace:
        shares = zip(*(paces[process] for _, paces in lines), strict=True)
        return Pace(
            *(sum(secs * share for (secs, _), share in zip(lines, of_name, strict=True)) / total for of_name in shares)
        )

    return {process: mean(process) for process in lines[0][1]}


def describe_slowest(slowest: Slowest, host: str, step_secs: float) -> str:
    """Returns the warning about a slow process.

    Args:
        slowest: Process that is slow.
        host: Its machine.
        step_secs: Duration of a step.
    """

    def ms(share: float) -> str:
        return f"{1000 * step_secs * share:.3g}"

    pace, others = slowest.pace, slowest.others
    return (
        f"process {slowest.process} on {host} is the slowest and costs {slowest.excess:.0%} of the step time: of "
        f"{ms(1)} ms a step it waits {ms(pace.data_wait)} ms for data (median of the others {ms(others.data_wait)}), works "
        f"{ms(pace.host)} ms on the host ({ms(others.host)}), and is not executed for {ms(pace.stalled)} ms "
        f"({ms(others.stalled)}); {_advice(pace, others)}"
    )


def _advice(pace: Pace, others: Pace) -> str:
    excess = {name: getattr(pace, name) - getattr(others, name) for name in ("data_wait", "host", "stalled")}
    return {
        "data_wait": "look at the disk or network that its data come from, and at data.prefetch_batches",
        "host": "look at its hooks and at what else uses its CPU",
        "stalled": "look at what else runs on its machine: it is stopped, throttled or short of CPU time or memory",
    }[max(excess, key=excess.__getitem__)]


def read_pace(content: Any) -> Pace:
    """Parses a pace.

    Raises:
        ValueError: It is invalid.
    """
    are_numbers = isinstance(content, list) and all(type(share) in (int, float) for share in content)
    if not are_numbers or len(content) != len(Pace._fields):
        raise ValueError("not a pace")
    return Pace(*map(float, content))
