"""Standard streams that survive their terminal: closed ones are replaced, a stderr that fails is given up.

A run must not end because nobody can read what it says: its log file goes on.
"""

import codecs
import contextlib
import os
import sys

from jaxdp.redact import escape_json_controls

TYPE_CHECKING = False  # `typing` takes as long to import as all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

_STANDARD = (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_WRONLY), ("stderr", "w", os.O_WRONLY))
"""Name in `sys` and modes of file descriptors 0, 1 and 2."""


class SurvivingStream:
    """A text stream that takes everything; after the first failed write what it takes is dropped.

    Args:
        stream: Returns the stream to write to, which may change or be None.
    """

    def __init__(self, stream: "Callable[[], TextIO | None]"):
        self._stream = stream
        self._given_up = None

    def write(self, text: str) -> int:
        """Writes the text if that is possible; characters that the encoding lacks become escapes."""
        stream = self._current()
        try:
            if stream is not None:
                try:
                    stream.write(text)
                except UnicodeEncodeError:
                    encoding = stream.encoding or "ascii"
                    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._give_up(stream, error)
        return len(text)

    def flush(self) -> None:
        """Flushes if that is possible."""
        stream = self._current()
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(stream, error)

    def isatty(self) -> bool:
        """Whether a person sees it."""
        stream = self._current()
        try:
            return stream is not None and stream.isatty()
        except ValueError:  # it is closed
            return False

    def __getattr__(self, name: str) -> "Any":
        if name == "rich_proxied_file":  # rich would write to what is below this stream
            raise AttributeError(name)
        return getattr(self._stream(), name)

    def _current(self) -> "TextIO | None":
        """The stream below, and below rich's own proxy, which a live display puts before it; None where it is given up."""
        stream = self._stream()
        stream = getattr(stream, "rich_proxied_file", stream)
        return None if stream is self._given_up else stream

    def _give_up(self, stream: "TextIO", error: Exception) -> None:
        import logging

        self._given_up = stream
        why = getattr(error, "strerror", None) or error
        logging.getLogger("jaxdp").info("the terminal can no longer be written (%s); messages go to the log alone", why)


class ResultsLost(Exception):
    """Raised where stdout cannot be written.

    Attributes:
        error: The system's answer; EPIPE where the reader went away, as in `jaxdp inspect ... | head`.
    """

    def __init__(self, error: OSError):
        super().__init__(str(error))
        self.error = error


class ResultStream:
    """Standard output, whose errors are told apart from those of other files.

    In a terminal control characters are written as escapes, since text of a model or of a file may hold
    any; a file or a pipe gets the text as it is.

    Args:
        stream: The stream to write to.
    """

    def __init__(self, stream: "TextIO"):
        self._stream = stream
        self._is_terminal = stream.isatty()

    def write(self, text: str) -> int:
        """Writes the text.

        Raises:
            ResultsLost: The system refuses; what follows is dropped.
        """
        try:
            return self._stream.write(escape_json_controls(text) if self._is_terminal else text)
        except OSError as error:
            raise self._lost(error) from error

    def flush(self) -> None:
        """Flushes.

        Raises:
            ResultsLost: See `write`.
        """
        try:
            self._stream.flush()
        except OSError as error:
            raise self._lost(error) from error

    def __getattr__(self, name: str) -> "Any":
        return getattr(self._stream, name)

    def _lost(self, error: OSError) -> ResultsLost:
        # What is buffered would fail once more at the end of the interpreter, and change its exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return ResultsLost(error)


def secure() -> None:
    """Makes the standard streams of this process safe to use; early in a process, before it opens files.

    A closed descriptor is opened on the null device: a file that is opened later would get its number, and
    with it what libraries write to stderr. What the encoding of stdout lacks becomes an escape that JSON
    knows too, and its errors are `ResultsLost`. A stderr that fails is given up.
    """
    for descriptor, (name, mode, flags) in enumerate(_STANDARD):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, flags)  # the lowest free number, which is this one
            os.set_inheritable(opened, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    codecs.register_error("jaxdp.json_escape", _json_escape)
    sys.stdout.reconfigure(errors="jaxdp.json_escape")
    sys.stdout = ResultStream(sys.stdout)
    stderr = sys.stderr
    sys.stderr = SurvivingStream(lambda: stderr)


def flush() -> None:
    """Flushes stdout and stderr as far as that is possible, for a process that is about to end."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ResultsLost, OSError, ValueError):  # the exit code says how it ended
            if stream is not None:
                stream.flush()


def _json_escape(error: UnicodeError) -> tuple[str, int]:
    """Error handler of a codec: `\\u` and four digits for each UTF-16 code unit, as in JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end
