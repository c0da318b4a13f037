"""Wire format of the control plane: JSON lines over TCP, and their limits.

A message is one line of JSON, [kind, content]. From process 0 to a caller:

    challenge  nonce                      sent first
    refused    null                       the proof is wrong; the connection ends
    welcome    proof                      the hello was accepted
    all        [one part per process]     all processes have connected, or have sent their parts
    where      null                       asks what the process does; it replies at once
    culprits   sentence                   names the processes that hold up the run
    end        {exit_code, sentence}      the run cannot continue

and from a process to process 0:

    hello      {process, of, host, nonce, proof}
    part       JSON                       its part of an allgather
    suspect    null                       the run makes no progress: asks who holds it up
    here       {phase, idle_secs, ...}    what it does; see `jaxdp.activity`
    pace       {data_wait, ...}           how fast it works; see `jaxdp.parallel.pace`
    leave      {exit_code, sentence}      the process stops; unless the exit code is 0, the run ends
"""

import contextlib
import json
import socket
import time
from typing import Any

from jaxdp.errors import UserError

MAX_HANDSHAKE_BYTES = 4096
"""Longest line from or to an unauthenticated caller."""

MAX_LINE_BYTES = 2**24
"""Longest line from an authenticated process."""

_CHUNK_BYTES = 65536


def message(kind: str, content: Any) -> bytes:
    """Returns one line of the protocol."""
    return json.dumps([kind, content]).encode() + b"\n"


def parsed(line: bytes) -> tuple[str, Any]:
    """Splits a line into kind and content.

    Raises:
        ValueError: The line is not of the protocol.
    """
    try:
        kind, content = json.loads(line)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("not a line of jaxdp's control plane") from error
    if not isinstance(kind, str):
        raise ValueError("not a line of jaxdp's control plane")
    return kind, content


def ending(content: Any) -> tuple[int, str]:
    """Reads the content of `leave` and `end`.

    Returns:
        (exit code, sentence).

    Raises:
        ValueError: The content is invalid.
    """
    if isinstance(content, dict):
        exit_code, sentence = content.get("exit_code"), content.get("sentence")
        if type(exit_code) is int and 0 <= exit_code <= 255 and isinstance(sentence, str):
            return exit_code, sentence
    raise ValueError("not the end of a run")


def ending_of(error: BaseException | None) -> tuple[int, str]:
    """Returns exit code and sentence of the exception that ends this process; 0 for none."""
    if error is None:
        return 0, ""
    described = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, UserError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "it was interrupted"
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code, "it received a second signal"
    return getattr(error, "exit_code", 70), described


def configure_connection(connection: socket.socket) -> None:
    """Configures a connection to send small messages at once and to fail within about two minutes if the other machine vanishes."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # TCP_USER_TIMEOUT (in milliseconds) covers unacknowledged data, during which keepalive is inactive.
    # Without TCP_NODELAY a second message waits 40 ms for the acknowledgement of the first.
    options = (
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", 60),
        ("TCP_KEEPINTVL", 15),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", 120_000),
    )
    for option, value in options:
        if hasattr(socket, option):
            with contextlib.suppress(OSError):  # not supported by this system
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class LineReader:
    """Reader of lines from a socket with a timeout, with limits of bytes and optionally of time."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._unread = bytearray()

    def read(self, max_bytes: int, deadline: float | None = None) -> tuple[str, Any]:
        """Returns kind and content of the next line.

        Args:
            max_bytes: Maximum length of the line.
            deadline: Time of `time.monotonic` at which the line must be complete; None: no limit.

        Raises:
            OSError: The connection ended, or the deadline has passed.
            ValueError: The line is too long or not of the protocol.
        """
        searched = 0
        while (end := self._unread.find(b"\n", searched)) < 0:
            searched = len(self._unread)
            if searched > max_bytes:
                raise ValueError(f"a line of more than {max_bytes} bytes")
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError("timed out")
            try:
                received = self._socket.recv(_CHUNK_BYTES)
            except TimeoutError:
                continue
            if not received:
                raise ConnectionError("the connection was closed")
            self._unread += received
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return parsed(line)
