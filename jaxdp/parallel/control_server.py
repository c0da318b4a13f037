"""Control server on process 0: membership, all-gather of JSON messages, and exit notifications.

One thread serves all connections and never blocks on one of them. An unauthenticated
caller may send one short line within `HELLO_SECS` (see `control_handshake`); anything
else ends its connection and changes nothing. Messages are in `control_messages`.
"""

import collections
import contextlib
import errno
import math
import selectors
import threading
import time
from collections.abc import Callable
from typing import Any

from jaxdp.errors import ProcessLost, UserError
from jaxdp.parallel.addresses import bind_address, listen
from jaxdp.parallel.arrival_messages import missing_message, waiting_message
from jaxdp.parallel.control_connection import Connection
from jaxdp.parallel.control_handshake import is_proof, proof_of, read_hello
from jaxdp.parallel.control_inquiry import REPLY_SECS, Inquiry, read_activity
from jaxdp.parallel.control_messages import ending, parsed
from jaxdp.parallel.pace import read_pace

HELLO_SECS = 10.0
"""Time in which a caller must authenticate."""

MAX_UNAUTHENTICATED = 64
"""Maximum number of unauthenticated connections beyond the number of processes; then the oldest is refused."""

ACCEPT_PAUSE_SECS = 0.2
"""Pause of accepting connections after the system ran out of file descriptors."""

FIRST_REPORT_SECS = 10.0
"""Time until process 0 says for whom it waits; then after twice the time, and so on."""

MAX_WAIT_SECS = 60.0


class ControlServer(threading.Thread):
    """Thread that accepts connections until all processes have arrived, and serves these until they leave."""

    def __init__(self, address: str, num_processes: int, timeout_secs: float, token: bytes, log: Callable[[str], None]):
        """Creates the server.

        Args:
            address: HOST:PORT to which the processes connect.
            num_processes: Number of processes, including process 0.
            timeout_secs: Time in which all must connect.
            token: Run token.
            log: Called with a sentence while processes are missing, from the thread.

        Raises:
            UserError: The port is in use.
        """
        super().__init__(name="jaxdp-control-server", daemon=True)
        self._address, self._num_processes, self._timeout_secs = address, num_processes, timeout_secs
        self._token, self._log = token, log
        self._start = time.monotonic()
        self._deadline, self._next_report = self._start + timeout_secs, self._start + FIRST_REPORT_SECS
        self._listener = listen(bind_address(address))
        self._listener.setblocking(False)
        self._is_open = True
        self._pause_end = 0.0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._unauthenticated: dict[Connection, None] = {}
        self._members: dict[int, Connection] = {}
        self._parts: dict[int, Any] = {}
        self._hosts: dict[int, str] = {}
        self._refusals: collections.deque[str] = collections.deque(maxlen=1)
        self._num_refusals = 0
        self._inquiry: Inquiry | None = None
        self._askers: set[int] = set()
        self.paces: dict[int, Any] = {}
        """Newest pace that each process has sent; see `jaxdp.parallel.pace`."""
        self.error: UserError | None = None
        """Reason why the run cannot continue; None before."""

    @property
    def was_called(self) -> bool:
        """True once a caller was accepted or refused, so that the address is known to work."""
        return bool(self._num_refusals or self._members)

    def run(self) -> None:
        """Serves the connections; body of the thread."""
        try:
            while self._is_open or self._members or self._unauthenticated:
                self._serve_once()
        except Exception as error:  # the run must not continue without its control plane
            self._abort(ProcessLost(f"the control server of process 0 failed ({type(error).__name__}: {error})"))
        finally:
            for connection in (*self._unauthenticated, *self._members.values()):
                connection.socket.close()
            self._listener.close()
            self._selector.close()

    def _serve_once(self) -> None:
        """Waits for events and handles them, then handles expired deadlines."""
        for key, events in self._selector.select(self._wait_secs()):
            if key.fileobj is self._listener:
                self._accept()
                continue
            if events & selectors.EVENT_WRITE and key.data.is_open:
                self._flush(key.data)
            if events & selectors.EVENT_READ and key.data.is_open:
                self._read(key.data)
        now = time.monotonic()
        for stranger in [stranger for stranger in self._unauthenticated if stranger.deadline <= now]:
            self._refuse(stranger, f"it did not say who it is within {HELLO_SECS:g} s")
        if self._inquiry and (self._inquiry.is_complete or self._inquiry.deadline <= now):
            self._conclude()
        if self._is_open and self._deadline <= now:
            self._abort(ProcessLost(self._why_missing()))
        if self._is_open and self._next_report <= now:
            waited_secs = now - self._start
            self._next_report = now + waited_secs
            self._log(
                waiting_message(self._num_processes, self._members, self._address, waited_secs, self._timeout_secs)
            )
        if self._is_open and self._pause_end and self._pause_end <= now:
            self._pause_end = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _wait_secs(self) -> float:
        times = [stranger.deadline for stranger in self._unauthenticated]
        if self._is_open:
            times += [self._deadline, self._next_report, self._pause_end or math.inf]
        if self._inquiry:
            times.append(self._inquiry.deadline)
        return min(max(min(times, default=math.inf) - time.monotonic(), 0.0), MAX_WAIT_SECS)

    def _accept(self) -> None:
        try:
            caller, where = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                # Callers wait in the kernel's queue meanwhile; closing one connection makes room.
                self._refuse_oldest("process 0 ran out of file descriptors")
                self._selector.unregister(self._listener)
                self._pause_end = time.monotonic() + ACCEPT_PAUSE_SECS
            return
        connection = Connection(caller, str(where[0]), time.monotonic() + HELLO_SECS)
        self._unauthenticated[connection] = None
        self._selector.register(caller, selectors.EVENT_READ, connection)
        if len(self._unauthenticated) > MAX_UNAUTHENTICATED + self._num_processes:
            self._refuse_oldest("too many callers came at once")
        self._send(connection, "challenge", connection.nonce)

    def _read(self, connection: Connection) -> None:
        lines, may_go_on = connection.receive()
        for line in lines:
            if connection.is_open:
                self._handle_line(connection, line)
        if connection.is_open and not may_go_on:
            self._disconnect(connection, "is gone")

    def _handle_line(self, connection: Connection, line: bytes) -> None:
        try:
            (kind, content), process = parsed(line), connection.process
            if connection in self._unauthenticated:
                self._authenticate(connection, kind, content)
            elif process is None:
                return  # sent before the process read that it was refused
            elif kind == "part" and self.error:
                return  # sent before the process received the end message
            elif kind == "part" and process not in self._parts:
                self._parts[process] = content
                self._send_when_complete()
            elif kind == "suspect":
                self._inquire(process)
            elif kind == "here":
                if self._inquiry:
                    self._inquiry.add(process, read_activity(content))
            elif kind == "pace":
                self.paces[process] = read_pace(content)
            elif kind == "leave":
                exit_code, sentence = ending(content)
                self._close(connection)
                if exit_code:
                    self._abort(ProcessLost(f"{connection.who} stopped: {sentence}", exit_code))
            else:
                raise ValueError(f"{kind} is not expected")
        except ValueError:
            self._disconnect(connection, "sent what is not of the control plane")

    def _authenticate(self, connection: Connection, kind: str, content: Any) -> None:
        hello = read_hello(content) if kind == "hello" else None
        if hello is None:
            self._refuse(connection, "it is not of this version of jaxdp")
            return
        if not is_proof(hello.proof, proof_of(self._token, "process", connection.nonce, hello)):
            self._refuse(connection, f"it has another token, and says it is process {hello.process} on {hello.host}")
            return
        del self._unauthenticated[connection]
        connection.process, connection.host = hello.process, hello.host
        self._send(connection, "welcome", proof_of(self._token, "control server", connection.nonce, hello))
        problem = self.error or self._conflict(connection, hello.process, hello.of)
        if problem:
            self._send(connection, *_end_message(problem))
            self._close(connection)
            self._abort(problem)
            return
        self._members[hello.process] = connection
        self._parts[hello.process] = self._hosts[hello.process] = hello.host
        self._send_when_complete()

    def _conflict(self, connection: Connection, process: int, num_processes: int) -> UserError | None:
        """Returns an error if a process is inconsistent with the connected ones, e.g. a duplicate index."""
        if num_processes != self._num_processes:
            return UserError(
                f"{connection.who} was started as one of {num_processes} processes, process 0 as one of "
                f"{self._num_processes}; give all of them the same --num_processes."
            )
        other = self._members.get(process)
        return other and UserError(
            f"two processes have index {process}, one on {other.host} and one on "
            f"{connection.host}; give each of the {self._num_processes} its own --process_index."
        )

    def _send_when_complete(self) -> None:
        if len(self._parts) < self._num_processes:
            return
        parts = [self._parts[process] for process in range(self._num_processes)]
        self._parts = {}
        self._close_listener()
        for stranger in list(self._unauthenticated):
            self._close(stranger)
        for connection in list(self._members.values()):
            self._send(connection, "all", parts)

    def _inquire(self, asker: int) -> None:
        """Asks all processes what they do, unless they have been asked just now."""
        self._askers.add(asker)
        if self._inquiry is None:
            self._inquiry = Inquiry(sorted(self._members), time.monotonic() + REPLY_SECS)
            for connection in list(self._members.values()):
                self._send(connection, "where", None)

    def _conclude(self) -> None:
        """Tells those that have asked which process is at fault."""
        assert self._inquiry is not None, "the caller has seen it"
        conclusion = self._inquiry.conclusion(self._hosts)
        for process in self._askers & self._members.keys():
            self._send(self._members[process], "culprits", conclusion)
        self._inquiry, self._askers = None, set()

    def _abort(self, error: UserError) -> None:
        """Notifies all connected processes why the run cannot continue; only the first reason is sent."""
        if self.error:
            return
        self.error = error
        self._close_listener()
        for connection in list(self._members.values()):
            self._send(connection, *_end_message(error))

    def _send(self, connection: Connection, kind: str, content: Any) -> None:
        connection.send(kind, content)
        self._update_events(connection)

    def _flush(self, connection: Connection) -> None:
        connection.flush()
        self._update_events(connection)

    def _update_events(self, connection: Connection) -> None:
        """Waits for write readiness while a connection has unsent data."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.has_unsent else 0)
        self._selector.modify(connection.socket, events, connection)

    def _refuse(self, stranger: Connection, why: str) -> None:
        """Ends an unauthenticated connection; the message about missing processes mentions it."""
        stranger.send("refused", None)
        self._num_refusals += 1
        self._refusals.append(f"{stranger.where} ({why})")
        self._close(stranger)

    def _refuse_oldest(self, why: str) -> None:
        if self._unauthenticated:
            self._refuse(next(iter(self._unauthenticated)), why)

    def _disconnect(self, connection: Connection, why: str) -> None:
        """Ends a broken connection; until all processes have arrived, it may be replaced by a new one."""
        was_here = self._is_member(connection)
        self._close(connection)
        if was_here and not self._is_open:
            self._abort(ProcessLost(f"{connection.who} {why}"))

    def _is_member(self, connection: Connection) -> bool:
        return any(member is connection for member in self._members.values())

    def _close(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        self._unauthenticated.pop(connection, None)
        if connection.process is not None and self._is_member(connection):
            del self._members[connection.process]
            self._parts.pop(connection.process, None)

    def _close_listener(self) -> None:
        """Releases the port, on which JAX listens next."""
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(KeyError):  # paused after running out of file descriptors
                self._selector.unregister(self._listener)
            self._listener.close()

    def _why_missing(self) -> str:
        hosts = {process: self._members[process].host for process in sorted(self._members)}
        last_refusal = self._refusals[-1] if self._refusals else ""
        return missing_message(
            self._num_processes, hosts, self._address, self._timeout_secs, self._num_refusals, last_refusal
        )


def _end_message(error: UserError) -> tuple[str, Any]:
    return "end", {"exit_code": error.exit_code, "sentence": str(error)}
