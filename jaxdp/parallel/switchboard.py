"""Process 0's end of the line between processes: who is there, what all say, who left.

One thread serves all connections. A message is one line of JSON, [kind, content]:

    hello   {process, of, host}       a process arrives
    say     anything                  its part of a common question
    leave   {exit_code, sentence}     it stops; with exit code 0 the others need not mind

and from here to a process

    welcome                           its hello was heard
    all     [one part a process]      everyone has arrived, or has answered
    end     {exit_code, sentence}     the run cannot go on
"""

import contextlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from jaxdp.errors import PeerLost, UserError
from jaxdp.parallel.addresses import bind_address, listen

MAX_LINE_BYTES = 2**24
"""A connection that sends more without a line break is none of ours."""


class _Connection:
    """What is known of one caller."""

    def __init__(self, caller: socket.socket):
        self.socket = caller
        self.unread = b""
        self.process: int | None = None
        self.host = ""

    def send(self, kind: str, content: Any) -> None:
        with contextlib.suppress(OSError):  # it is gone, which reading from it tells
            self.socket.sendall(message(kind, content))


class Switchboard(threading.Thread):
    """Answers at a port until `num_processes` processes have arrived, and these until they leave."""

    def __init__(self, address: str, num_processes: int, timeout_secs: float):
        """
        Args:
            address: HOST:PORT at which the processes look for this one.
            num_processes: how many are to come, this one's own among them.
            timeout_secs: how long to wait for all.

        Raises:
            UserError: the port is taken.
        """
        super().__init__(name="jaxdp-switchboard", daemon=True)
        self._address, self._num_processes, self._timeout_secs = address, num_processes, timeout_secs
        self._deadline = time.monotonic() + timeout_secs
        self._listener: socket.socket | None = listen(bind_address(address))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._here: dict[int, _Connection] = {}
        self._said: dict[int, Any] = {}
        self.error: UserError | None = None
        """Why the run cannot go on."""

    def run(self) -> None:
        while self._listener or self._here:
            waiting = max(self._deadline - time.monotonic(), 0.0) if self._listener else None
            events = self._selector.select(waiting)
            if not events:
                self._end(PeerLost(self._who_is_missing()))
            for key, _ in events:
                if key.fileobj is self._listener:
                    caller, _ = self._listener.accept()
                    self._selector.register(caller, selectors.EVENT_READ, _Connection(caller))
                else:
                    self._read(key.data)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()

    def _read(self, connection: _Connection) -> None:
        try:
            received = connection.socket.recv(65536)
        except OSError:
            received = b""
        *lines, connection.unread = (connection.unread + received).split(b"\n")
        for line in lines:
            if connection.socket.fileno() >= 0:
                self._hear(connection, line)
        if connection.socket.fileno() >= 0 and (not received or len(connection.unread) > MAX_LINE_BYTES):
            self._lose(connection)

    def _hear(self, connection: _Connection, line: bytes) -> None:
        try:
            kind, content = json.loads(line)
        except (ValueError, TypeError):
            kind, content = "noise", None
        if kind == "hello" and connection.process is None and _is_hello(content):
            self._greet(connection, content)
        elif kind == "say" and connection.process in self._here:
            self._said[connection.process] = content
            self._tell_when_complete()
        elif kind == "leave" and connection.process in self._here:
            self._drop(connection)
            if content["exit_code"]:
                who = f"process {connection.process} on {connection.host}"
                self._end(PeerLost(f"{who} stopped: {content['sentence']}", content["exit_code"]))
        else:
            self._lose(connection)  # it speaks another language

    def _greet(self, connection: _Connection, hello: dict[str, Any]) -> None:
        connection.process, connection.host = hello["process"], hello["host"]
        other = self._here.get(connection.process)
        who = f"process {connection.process} on {connection.host}"
        self._here.setdefault(connection.process, connection)
        if self.error:
            connection.send(*_end_message(self.error))
            return
        if hello["of"] != self._num_processes:
            problem = (
                f"{who} was started as one of {hello['of']} processes, process 0 as one of {self._num_processes}; "
                "give all of them the same --num_processes."
            )
        elif other:
            problem = (
                f"two processes have index {connection.process}, one on {other.host} and one on "
                f"{connection.host}; give each of the {self._num_processes} its own --process_index."
            )
        else:
            connection.send("welcome", None)
            self._said[connection.process] = connection.host
            self._tell_when_complete()
            return
        if other:  # it is not among those that are told
            connection.send(*_end_message(UserError(problem)))
        self._end(UserError(problem))

    def _tell_when_complete(self) -> None:
        if len(self._said) < self._num_processes:
            return
        said = [self._said[process] for process in range(self._num_processes)]
        self._said = {}
        self._close_listener()
        for connection in self._here.values():
            connection.send("all", said)

    def _end(self, error: UserError) -> None:
        """Tells all that are there why the run cannot go on; the first reason is the one that counts."""
        if self.error:
            return
        self.error = error
        self._close_listener()
        for connection in self._here.values():
            connection.send(*_end_message(error))

    def _lose(self, connection: _Connection) -> None:
        """It hung up without a word; before all have arrived another one may still come in its place."""
        was_here = self._here.get(connection.process) is connection
        self._drop(connection)
        if was_here and not self._listener:
            self._end(PeerLost(f"process {connection.process} on {connection.host} is gone"))

    def _drop(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        if self._here.get(connection.process) is connection:
            del self._here[connection.process]
            self._said.pop(connection.process, None)

    def _close_listener(self) -> None:
        """Gives the port over, so that JAX can listen there."""
        if self._listener:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _who_is_missing(self) -> str:
        missing = [process for process in range(self._num_processes) if process not in self._here]
        here = [f"{process} on {self._here[process].host}" for process in sorted(self._here)]
        return (
            f"{_listed('process', missing)} of {self._num_processes} did not come to "
            f"--coordinator={self._address} within {self._timeout_secs:g} s (parallel.init_timeout_secs); "
            f"{_listed('process', here)} did. Look at what the missing ones say, and whether they can reach that address."
        )


def _end_message(error: UserError) -> tuple[str, Any]:
    return "end", {"exit_code": error.exit_code, "sentence": str(error)}


def _is_hello(content: Any) -> bool:
    kinds = {"process": int, "of": int, "host": str}
    return isinstance(content, dict) and all(isinstance(content.get(key), kind) for key, kind in kinds.items())


def message(kind: str, content: Any) -> bytes:
    """One line of the protocol."""
    return json.dumps([kind, content]).encode() + b"\n"


def _listed(noun: str, things: Sequence[Any], limit: int = 8) -> str:
    shown = ", ".join(map(str, things[:limit])) + (f" and {len(things) - limit} more" if len(things) > limit else "")
    return f"{noun}{'es' if len(things) > 1 else ''} {shown}" if things else f"no {noun}"
