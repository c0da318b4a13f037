"""Signal handling of a command from its first line on: SIGTERM and SIGHUP exit with 75, Ctrl-C with 130.

Training replaces these handlers by its own (`hooks.preemption`), which save first. This file imports little:
what is imported before the handlers are installed is time in which SIGTERM kills the process with 143.
"""

import atexit
import os
import signal
import sys

TYPE_CHECKING = False  # `typing` takes as long to import as all the rest
if TYPE_CHECKING:
    from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGHUP: 75}
"""Exit code of a command that this signal ended; 75: start it again."""

UNWIND_SECS = 5.0
"""Time for the main thread to end by itself after a signal: closing files, ending workers."""

_received: list[int] = []
"""Signals that ended the command, of this process."""


class Stopped(BaseException):
    """A signal came while there was nothing to save.

    Not an Exception, like KeyboardInterrupt: no code that is interrupted may handle it.
    """

    def __init__(self, number: int):
        super().__init__(f"{signal.Signals(number).name} came before its first step")
        self.number = number
        self.exit_code = EXIT_CODES[signal.Signals(number)]


def handled_signals() -> list[signal.Signals]:
    """The signals to handle: SIGHUP only where it is not ignored, as `nohup` wants it.

    SIGINT is handled even where it is ignored: a shell ignores it for every `&` of a script, and
    `launch/restart.sh` starts its processes so.
    """
    return [number for number in EXIT_CODES if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def install() -> None:
    """Installs the handlers of a command; the first call of a process."""
    for number in handled_signals():
        signal.signal(number, _handle)
    sys.unraisablehook = _end_if_swallowed
    atexit.register(_ignore_all)  # what is registered first runs last


def watch_main_thread() -> None:
    """Starts a thread that ends the process where the main thread does not react to a signal in time.

    Python runs a handler between two bytecodes of the main thread, which are minutes apart while it
    compiles; and a library may catch what the handler raises.
    """
    import threading

    incoming, outgoing = os.pipe()
    os.set_blocking(outgoing, False)
    signal.set_wakeup_fd(outgoing, warn_on_full_buffer=False)
    threading.Thread(target=_end_late, args=(incoming,), name="jaxdp-interrupts", daemon=True).start()


def exit_code() -> int:
    """Exit code of the signal that ended the command; 0 where none came."""
    return EXIT_CODES[_received[0]] if _received else 0


def sentence() -> str:
    """States for the user what the received signal did."""
    if not _received or _received[0] == signal.SIGINT:
        return "interrupted"
    return f"{signal.Signals(_received[0]).name}: stopped, nothing to save yet; run the same command again"


def decided(code: int) -> None:
    """The command has ended with this exit code: a signal from now on ends the process with it at once."""
    signal.set_wakeup_fd(-1)
    for number in handled_signals():
        signal.signal(number, lambda *_: os._exit(code))


def _ignore_all() -> None:
    """The interpreter, taking itself apart, would let a signal kill the process and so change its exit code."""
    for number in handled_signals():
        signal.signal(number, signal.SIG_IGN)


def _handle(number: int, frame: "FrameType | None") -> None:
    """In the main thread."""
    if number == signal.SIGHUP and _received:
        return  # the kernel, the shell and the service manager may each send one
    _received.append(number)
    if len(_received) > 1 or _is_importing(frame):
        _end()
    raise Stopped(number)


def _end_if_swallowed(unraisable: "sys.UnraisableHookArgs") -> None:
    """A handler that runs in a destructor or in the garbage collector raises in vain."""
    if isinstance(unraisable.exc_value, Stopped):
        _end()
    sys.__unraisablehook__(unraisable)


def _is_importing(frame: "FrameType | None") -> bool:
    """Whether a module is being imported: many modules swallow or replace an exception that comes then."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _end_late(incoming: int) -> None:
    """The thread: one byte for each signal, its number."""
    while True:
        for number in os.read(incoming, 1):
            if number in EXIT_CODES:
                import time

                time.sleep(UNWIND_SECS)
                _received.append(number)
                _end()


def _end() -> None:
    """Ends the process past everything that may hang or fail."""
    try:
        os.write(2, f"jaxdp: {sentence()}\n".encode())
    finally:  # also where the terminal is gone: the exit code says the same
        os._exit(exit_code())
