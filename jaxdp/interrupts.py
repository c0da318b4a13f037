"""Signal handling of a command from its first line: SIGTERM and SIGHUP exit with 75, Ctrl-C with 130.

Training replaces these handlers by those of `hooks.preemption`, which save first. This file imports little,
since SIGTERM kills the process with 143 until the handlers are installed.
"""

import atexit
import os
import signal
import sys
import time

TYPE_CHECKING = False  # importing `typing` takes as long as all other imports
if TYPE_CHECKING:
    from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGHUP: 75}
"""Signal -> exit code of a command that it ended; 75: start it again."""

UNWIND_SECS = 5.0
"""Time for the main thread to close files and end workers after a signal."""

_received: list[int] = []
"""Signals that this process has received."""

_installed: list[float] = []
"""Unix time at which the handlers were installed."""


class Stopped(BaseException):
    """Raised by a signal while there is nothing to save.

    A BaseException, like KeyboardInterrupt, since interrupted code must not handle it.
    """

    def __init__(self, number: int):
        super().__init__(f"{signal.Signals(number).name} came before its first step")
        self.number = number
        self.exit_code = EXIT_CODES[signal.Signals(number)]


def handled_signals() -> list[signal.Signals]:
    """Returns the signals to handle; SIGHUP only if it is not ignored, as under `nohup`.

    SIGINT is handled even if it is ignored: a shell ignores it for each background command of a script, as
    `launch/tpu_pod.sh` starts training.
    """
    return [number for number in EXIT_CODES if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def install() -> None:
    """Installs the handlers of a command; must be the first call of a process."""
    _installed.append(time.time())
    for number in handled_signals():
        signal.signal(number, _handle)
    sys.unraisablehook = _end_if_swallowed
    atexit.register(_ignore_all)  # the function registered first runs last


def watch_main_thread() -> None:
    """Starts a thread that ends the process if the main thread does not react to a signal in time.

    Python runs a handler between two bytecodes of the main thread, which are minutes apart while it
    compiles; and a library may catch the exception of the handler.
    """
    import threading

    incoming, outgoing = os.pipe()
    os.set_blocking(outgoing, False)
    signal.set_wakeup_fd(outgoing, warn_on_full_buffer=False)
    threading.Thread(target=_end_late, args=(incoming,), name="jaxdp-interrupts", daemon=True).start()


def command_start() -> float | None:
    """Returns the Unix time at which this process began its command; None in a process of the user's, such as a notebook."""
    return _installed[0] if _installed else None


def exit_code() -> int:
    """Returns the exit code of the signal that ended the command; 0 for none."""
    return EXIT_CODES[signal.Signals(_received[0])] if _received else 0


def sentence() -> str:
    """Describes the effect of the received signal for the user."""
    if not _received or _received[0] == signal.SIGINT:
        return "interrupted"
    return f"{signal.Signals(_received[0]).name}: stopped, nothing to save yet; run the same command again"


def decided(code: int) -> None:
    """Fixes the exit code of a command that has ended: a later signal ends the process with it at once."""
    signal.set_wakeup_fd(-1)
    for number in handled_signals():
        signal.signal(number, lambda *_: os._exit(code))


def _ignore_all() -> None:
    """Ignores all signals during interpreter shutdown, where one would kill the process and change its exit code."""
    for number in handled_signals():
        signal.signal(number, signal.SIG_IGN)


def _handle(number: int, frame: "FrameType | None") -> None:
    """Handles a signal in the main thread."""
    if number == signal.SIGHUP and _received:
        return  # the kernel, the shell and the service manager may each send SIGHUP
    _received.append(number)
    if len(_received) > 1 or _is_importing(frame):
        _end()
    raise Stopped(number)


def _end_if_swallowed(unraisable: "sys.UnraisableHookArgs") -> None:
    """Ends the process if a destructor or the garbage collector has swallowed the exception of a handler."""
    if isinstance(unraisable.exc_value, Stopped):
        _end()
    sys.__unraisablehook__(unraisable)


def _is_importing(frame: "FrameType | None") -> bool:
    """Returns True during an import, since many modules swallow or replace an exception at that point."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end_late(incoming: int) -> None:
    """Receives one byte a signal, its number, and ends the process; body of the thread."""
    while True:
        for number in os.read(incoming, 1):
            if number in EXIT_CODES:
                time.sleep(UNWIND_SECS)
                _received.append(number)
                _end()


def _end() -> None:
    """Ends the process immediately, without cleanup that may hang or fail."""
    try:
        os.write(2, f"jaxdp: {sentence()}\n".encode())
    finally:  # the terminal may be gone; the exit code has the same information
        os._exit(exit_code())
