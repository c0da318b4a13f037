"""SIGTERM and Ctrl-C: finish the step, save, leave.

The signal only sets a number; the control word of the step carries it to all
processes, so that all stop after the same step. A second signal stops at once.
"""

import signal
import sys
from collections.abc import Callable

from jaxdp.trainer import Hook

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}
"""Exit code after a save that this signal asked for."""


class Preemption(Hook):
    """Turns the first SIGINT or SIGTERM into a request to stop; a context manager."""

    def __init__(self, report: Callable[[str], None]):
        self._report = report
        self._received = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Preemption":
        self._previous = {number: signal.signal(number, self._receive) for number in EXIT_CODES}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def request(self) -> int:
        return self._received

    def _receive(self, number: int, _frame) -> None:
        if self._received:
            sys.exit(128 + number)
        self._received = number
        self._report(f"{signal.Signals(number).name}: saving after this step; once more to stop at once")


def exit_code(request: int) -> int:
    """The exit code that the agreed request stands for; 0 for none."""
    return EXIT_CODES[signal.Signals(request)] if request else 0
