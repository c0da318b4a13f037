"""Connection of the control server: non-blocking, with bounded buffers."""

import contextlib
import socket
from typing import Any

from jaxdp.parallel.control_handshake import new_nonce
from jaxdp.parallel.control_messages import (
    MAX_HANDSHAKE_BYTES,
    MAX_LINE_BYTES,
    configure_connection,
    message,
)

_CHUNK_BYTES = 65536


class Connection:
    """State of one caller: identity, incomplete line and unsent data.

    Attributes:
        socket: Non-blocking socket.
        where: Address of the caller, for messages.
        deadline: Time at which the caller must be authenticated.
        nonce: Challenge for its proof.
        process: Index of the authenticated process; None before.
        host: Name of its machine.
    """

    def __init__(self, caller: socket.socket, where: str, deadline: float):
        caller.setblocking(False)
        with contextlib.suppress(OSError):  # the caller is gone; the next read reports it
            configure_connection(caller)
        self.socket, self.where, self.deadline = caller, where, deadline
        self.nonce = new_nonce()
        self.process: int | None = None
        self.host = ""
        self._unread = bytearray()
        self._unsent = bytearray()

    @property
    def who(self) -> str:
        """Process and host, for messages."""
        return f"process {self.process} on {self.host}"

    @property
    def is_open(self) -> bool:
        """True until the socket is closed."""
        return self.socket.fileno() >= 0

    @property
    def has_unsent(self) -> bool:
        """True while data wait to be sent."""
        return bool(self._unsent)

    def receive(self) -> tuple[list[bytes], bool]:
        """Reads the data that have arrived.

        Returns:
            (complete lines, whether the connection may continue). It may not after the caller
            has disconnected or sent a line that is too long.
        """
        try:
            received = self.socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return [], True
        except OSError:
            received = b""
        lines = []
        if b"\n" in received:
            *lines, received_last = (bytes(self._unread) + received).split(b"\n")
            self._unread = bytearray(received_last)
        else:
            self._unread += received
        max_bytes = MAX_HANDSHAKE_BYTES if self.process is None else MAX_LINE_BYTES
        longest = max(map(len, (*lines, self._unread)))
        return lines, bool(received) and longest <= max_bytes

    def send(self, kind: str, content: Any) -> None:
        """Sends a message as far as the socket accepts it; `flush` sends the rest."""
        self._unsent += message(kind, content)
        self.flush()

    def flush(self) -> None:
        """Sends unsent data as far as the socket accepts them."""
        try:
            while self._unsent:
                del self._unsent[: self.socket.send(self._unsent[: 2**20])]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # the caller is gone; the next read reports it
