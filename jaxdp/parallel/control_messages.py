"""Wire format of the control plane: JSON lines over TCP, and their limits.

A message is one line of JSON, [kind, content]. From process 0 to a caller:

    challenge  nonce                      at once
    refused    null                       the hello proved nothing; the connection ends
    welcome    proof                      the hello was accepted
    all        [one part a process]       everyone has arrived, or has answered
    end        {exit_code, sentence}      the run cannot go on

and from a process to process 0:

    hello      {process, of, host, nonce, proof}
    part       JSON                       its part of an allgather
    leave      {exit_code, sentence}      it stops; with exit code 0 the others need not mind
"""

import contextlib
import json
import socket
import time
from typing import Any

MAX_HANDSHAKE_BYTES = 4096
"""Longest line from a caller, or to one, that has not proven to be of this run."""

MAX_LINE_BYTES = 2**24
"""Longest line that a process of this run sends."""

_CHUNK_BYTES = 65536


def message(kind: str, content: Any) -> bytes:
    """Returns one line of the protocol."""
    return json.dumps([kind, content]).encode() + b"\n"


def parsed(line: bytes) -> tuple[str, Any]:
    """Splits a line into kind and content.

    Raises:
        ValueError: It is no line of the protocol.
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
        ValueError: It is something else.
    """
    if isinstance(content, dict):
        exit_code, sentence = content.get("exit_code"), content.get("sentence")
        if type(exit_code) is int and 0 <= exit_code <= 255 and isinstance(sentence, str):
            return exit_code, sentence
    raise ValueError("not the end of a run")


def configure_connection(connection: socket.socket) -> None:
    """Sends small messages at once, and lets the kernel end a connection whose other machine vanished within about two minutes."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # TCP_USER_TIMEOUT, in milliseconds, is for what was sent and not received; keepalive rests meanwhile.
    # Without TCP_NODELAY a message that follows another one waits 40 ms for the acknowledgement of that.
    options = (("TCP_NODELAY", 1), ("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 120_000))
    for option, value in options:
        if hasattr(socket, option):
            with contextlib.suppress(OSError):  # not on this system
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class LineReader:
    """Lines from a socket with a timeout, each within a limit of bytes and, if wanted, of time."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._unread = bytearray()

    def read(self, max_bytes: int, deadline: float | None = None) -> tuple[str, Any]:
        """Returns kind and content of the next line.

        Args:
            max_bytes: Length from which on it is none.
            deadline: Time of `time.monotonic` by which it has arrived; None: no limit.

        Raises:
            OSError: The connection ended, or the time is over.
            ValueError: It is no line of the protocol.
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
