"""Inquiry into a run without progress: names the process that does not respond, or that the others wait for.

A process whose watchdog is about to end it asks process 0, which asks all. The reply comes from a thread, so a
process whose main thread hangs still says where it hangs; one that is stopped, or that the network does not reach,
says nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxdp.activity import Activity

REPLY_SECS = 3.0
"""Time in which a process must reply."""

ANSWER_SECS = REPLY_SECS + 3.0
"""Time in which process 0 must tell what it found."""

_MAX_CHARACTERS = 300
_MAX_NAMED = 4


class Inquiry:
    """Replies of the processes to one question of process 0.

    Attributes:
        deadline: Time of `time.monotonic` until which replies are accepted.
    """

    def __init__(self, processes: Sequence[int], deadline: float):
        """Creates the inquiry.

        Args:
            processes: Processes that are asked.
            deadline: See above.
        """
        self.deadline = deadline
        self._replies: dict[int, Activity | None] = dict.fromkeys(processes)

    def add(self, process: int, activity: Activity) -> None:
        """Records the reply of a process."""
        if process in self._replies:
            self._replies[process] = activity

    @property
    def is_complete(self) -> bool:
        """True once all have replied."""
        return None not in self._replies.values()

    def conclusion(self, hosts: Mapping[int, str]) -> str:
        """Returns the sentence that names the process at fault, without a period.

        Args:
            hosts: Host by process.
        """
        silent = [process for process, activity in self._replies.items() if activity is None]
        busy = {process: activity for process, activity in self._replies.items() if activity and not activity.waits}
        parts = [does_not_respond(process, hosts[process]) for process in silent]
        if not silent:
            parts += [_is_stuck(process, hosts[process], activity) for process, activity in busy.items()]
        if parts:
            more = [f"and {len(parts) - _MAX_NAMED} more"] if len(parts) > _MAX_NAMED else []
            return "; ".join(parts[:_MAX_NAMED] + more)
        return (
            "all processes respond and wait for their devices or for each other: a device, or the network between the "
            "machines, is at fault"
        )


def does_not_respond(process: int, host: str) -> str:
    """Describes a process that is connected but does not reply."""
    return (
        f"process {process} on {host} does not respond: it is stopped, or its machine or network is down; end it there "
        "before the next start"
    )


def _is_stuck(process: int, host: str, activity: Activity) -> str:
    return (
        f"process {process} on {host} holds up the others: no progress while {activity.phase} for "
        f"{activity.idle_secs:.0f} s, at {activity.place}; logs/process_{process}.log has its stacks"
    )


def read_activity(content: Any) -> Activity:
    """Parses an activity.

    Raises:
        ValueError: It is invalid.
    """
    if isinstance(content, dict) and content.keys() == set(Activity._fields):
        phase, idle_secs, place, waits = (content[name] for name in Activity._fields)
        are_texts = all(isinstance(text, str) and text.isprintable() for text in (phase, place))
        if are_texts and type(idle_secs) in (int, float) and type(waits) is bool:
            return Activity(phase[:_MAX_CHARACTERS], float(idle_secs), place[:_MAX_CHARACTERS], waits)
    raise ValueError("not an activity")
