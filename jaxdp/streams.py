"""Standard streams that survive their terminal: closed ones are replaced, a failing stderr is dropped.

A run must not end because its terminal is gone; its log file continues.
"""

import codecs
import contextlib
import io
import os
import sys

from jaxdp.redact import escape_json_controls

TYPE_CHECKING = False  # importing `typing` takes as long as all other imports
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

_STANDARD = (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_WRONLY), ("stderr", "w", os.O_WRONLY))
"""Names in `sys` and modes of file descriptors 0, 1 and 2."""


class SurvivingStream:
    """Text stream that never fails; after the first failed write all text is dropped.

    Args:
        stream: Returns the stream to write to, which may change or be None.
    """

    def __init__(self, stream: "Callable[[], TextIO | None]"):
        self._stream = stream
        self._given_up = None

    def write(self, text: str) -> int:
        """Writes the text if possible; characters that the encoding lacks become escapes."""
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
        """Flushes if possible."""
        stream = self._current()
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            self._give_up(stream, error)

    def isatty(self) -> bool:
        """Returns True for a terminal."""
        stream = self._current()
        try:
            return stream is not None and stream.isatty()
        except ValueError:  # it is closed
            return False

    def __getattr__(self, name: str) -> "Any":
        if name == "rich_proxied_file":  # rich would bypass this stream
            raise AttributeError(name)
        return getattr(self._stream(), name)

    def _current(self) -> "TextIO | None":
        """Returns the underlying stream, also below the proxy of a rich live display; None after a failed write."""
        stream = self._stream()
        stream = getattr(stream, "rich_proxied_file", stream)
        return None if stream is self._given_up else stream

    def _give_up(self, stream: "TextIO | None", error: Exception) -> None:
        import logging

        self._given_up = stream
        why = getattr(error, "strerror", None) or error
        logging.getLogger("jaxdp").info("the terminal can no longer be written (%s); messages go to the log alone", why)


class ResultsLost(Exception):
    """Raised if stdout cannot be written.

    Attributes:
        error: Error of the system; EPIPE if the reader has closed the pipe, as in `jaxdp inspect ... | head`.
    """

    def __init__(self, error: OSError):
        super().__init__(str(error))
        self.error = error


class ResultStream:
    """Standard output whose errors are distinct from those of other files.

    A terminal gets control characters as escapes, since text of a model or of a file may contain any; a file
    or a pipe gets the text unchanged.

    Args:
        stream: Stream to write to.
    """

    def __init__(self, stream: "TextIO"):
        self._stream = stream
        self._is_terminal = stream.isatty()

    def write(self, text: str) -> int:
        """Writes the text.

        Raises:
            ResultsLost: The write failed; later text is dropped.
        """
        try:
            return self._stream.write(escape_json_controls(text) if self._is_terminal else text)
        except OSError as error:
            raise self._lost(error) from error

    def flush(self) -> None:
        """Flushes the stream.

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
        # Buffered text would fail again at interpreter shutdown and change the exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return ResultsLost(error)


def secure() -> None:
    """Makes the standard streams of this process safe to use; must run before the process opens files.

    A closed descriptor is opened on the null device; otherwise a file that is opened later would get its
    number and receive the output of libraries to stderr. Characters that the encoding of stdout lacks become
    JSON escapes, and its errors are `ResultsLost`. A failing stderr is dropped.
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
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="jaxdp.json_escape")
    sys.stdout = ResultStream(sys.stdout)
    stderr = sys.stderr
    sys.stderr = SurvivingStream(lambda: stderr)


def flush() -> None:
    """Flushes stdout and stderr as far as possible, before the process ends."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ResultsLost, OSError, ValueError):  # the exit code says how it ended
            if stream is not None:
                stream.flush()


def _json_escape(error: UnicodeError) -> tuple[str, int]:
    r"""Handles errors of a codec: `\u` and four digits for each UTF-16 code unit, as in JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end
