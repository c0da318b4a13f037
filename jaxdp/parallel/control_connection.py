"""One connection of the control server: never blocks, and bounds what it holds of its caller."""

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
    """What is known of one caller, the start of its next line, and what is still to be sent to it.

    Attributes:
        socket: Non-blocking.
        where: Address of the caller, for messages.
        deadline: Time by which it has to prove that it is of this run.
        nonce: What its proof has to be about.
        process: Index that it has proven; None before.
        host: Name of its machine.
    """

    def __init__(self, caller: socket.socket, where: str, deadline: float):
        caller.setblocking(False)
        with contextlib.suppress(OSError):  # it is gone, which reading from it tells
            configure_connection(caller)
        self.socket, self.where, self.deadline = caller, where, deadline
        self.nonce = new_nonce()
        self.process: int | None = None
        self.host = ""
        self._unread = bytearray()
        self._unsent = bytearray()

    @property
    def who(self) -> str:
        return f"process {self.process} on {self.host}"

    @property
    def is_open(self) -> bool:
        return self.socket.fileno() >= 0

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def receive(self) -> tuple[list[bytes], bool]:
        """Reads what has arrived.

        Returns:
            (whole lines, whether the caller may go on: it has neither hung up nor
            sent a longer line than it may).
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
        """Sends a message as far as the caller takes it now; `flush` sends the rest."""
        self._unsent += message(kind, content)
        self.flush()

    def flush(self) -> None:
        """Sends what is still to be sent, as far as the caller takes it now."""
        try:
            while self._unsent:
                del self._unsent[: self.socket.send(self._unsent[: 2**20])]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()  # it is gone, which reading from it tells
