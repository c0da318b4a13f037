"""Control plane: membership, broadcast and all-gather of JSON between the processes of a run, independent of device collectives.

JAX aborts the process without a Python exception (exit code 134) when another process is missing, duplicated or
dead, and a collective waits forever for one that has left. So every process connects to the control server of
process 0 before JAX does and stays connected: there it learns which processes are missing, agrees with the others
on what the devices cannot agree on yet, and is notified at once when one stops.

Once the devices are connected, requests travel in the control word of the step (`control_word`), also during an
evaluation (`compile_agreement`), so no step waits for this connection. What remains here are JSON values that
process 0 alone knows or decides - the checkpoint to restore, the name of a save, the best step, whether the run is
complete - between steps, where a collective would need a fixed shape and, if a process were gone, could neither end
nor name it; messages that nobody waits for, about the pace of a process; and the inquiry into a run without progress.
"""

import atexit
import contextlib
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jaxdp import streams
from jaxdp.activity import Activity
from jaxdp.errors import ProcessLost, UserError
from jaxdp.parallel.arrival_messages import refused_message, unreachable_message
from jaxdp.parallel.control_handshake import TokenRefused, call_control_server
from jaxdp.parallel.control_inquiry import ANSWER_SECS, does_not_respond
from jaxdp.parallel.control_messages import MAX_LINE_BYTES, ending, ending_of, message
from jaxdp.parallel.control_server import ControlServer
from jaxdp.parallel.processes import ALONE, Processes
from jaxdp.parallel.run_token import VARIABLE, RunToken

RETRY_SECS = 0.2
"""Pause between two attempts to connect to process 0."""

NOTICE_SECS = 3.0
"""Time within which the loss of a process that makes a collective fail is detected."""

CALL_SECS = 10.0
"""Timeout of one attempt to connect; process 0 responds at once."""

TOKEN_SECS = 30.0
"""Time in which a refused token is retried: on a shared file system the new token may appear late."""

LINGER_SECS = 5.0
"""Time in which a process may finish work, such as a save, after another one has ended the run."""


class ControlPlane:
    """Context manager of the connection to the other processes of the run.

    With a single process every call returns its own part.
    """

    def __init__(
        self,
        processes: Processes,
        timeout_secs: float,
        log: Callable[[str], None],
        end_process: Callable[[int], None] = os._exit,
        *,
        token: RunToken | None = None,
    ):
        """Connects to process 0 and waits until all processes are connected.

        Args:
            processes: Number of processes, index of this one, and address of process 0.
            timeout_secs: Time in which all must connect.
            log: Called with a sentence while processes are missing, and when one is lost while this one is blocked.
            end_process: Ends this process with an exit code, from a thread.
            token: Run token, which process 0 has already written; None for a single process.

        Raises:
            UserError: A process is missing or has a wrong index, or the address or the token is wrong.
        """
        self.num_processes, self.process_index = processes.num_processes, processes.process_index
        self.hosts = [socket.gethostname()]
        self._processes, self._address = processes, processes.coordinator
        self._log, self._end_process = log, end_process
        self._sending = threading.Lock()
        self._left = threading.Event()
        self._lost = threading.Event()
        self._loss = ProcessLost("no process has been lost")
        self._server: ControlServer | None = None
        self._conclusions: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._activity: Callable[[], Activity] = lambda: Activity("starting or ending", 0.0, "no code", False)
        self._advice: Callable[[], str] = lambda: ""
        if self.num_processes > 1:
            if token is None:
                raise ValueError("several processes need a token")
            self._join(timeout_secs, token)

    @classmethod
    def single_process(cls) -> "ControlPlane":
        """Returns the control plane of a single-process run."""
        return cls(ALONE, 0.0, lambda sentence: None)

    @property
    def is_main_process(self) -> bool:
        """True for process 0."""
        return self.process_index == 0

    @property
    def loss(self) -> ProcessLost | None:
        """Reason why the run cannot continue once a process has stopped; None before. Never waits."""
        return self._loss if self._lost.is_set() else None

    def allgather(self, part: Any) -> list[Any]:
        """Returns the parts of all processes in the order of their indices; every process must call it equally often.

        Args:
            part: JSON value.

        Raises:
            ProcessLost: A process has stopped.
        """
        if self.num_processes == 1:
            return [part]
        self._send("part", part)
        return self._next_answer()

    def broadcast(self, part: Any) -> Any:
        """Returns the part of process 0; those of the others are ignored."""
        return self.allgather(part if self.is_main_process else None)[0]

    def leave(self, exit_code: int = 0, sentence: str = "") -> None:
        """Notifies the others that this process stops; unless the exit code is 0, they stop too.

        Process 0 then waits for the others, since JAX aborts them when process 0 ends.
        """
        if self.num_processes == 1 or self._left.is_set():
            return
        self._left.set()
        self._send("leave", {"exit_code": exit_code, "sentence": sentence})
        if exit_code and self._server:
            self._server.join(LINGER_SECS + NOTICE_SECS)

    def describe_by(self, activity: Callable[[], Activity]) -> None:
        """Sets the function that tells the other processes what this one does."""
        self._activity = activity

    def advise_by(self, advice: Callable[[], str]) -> None:
        """Sets the function that tells how to continue without a process that was lost; called from a thread."""
        self._advice = advice

    def culprits(self) -> str:
        """Names the process that holds up a run without progress; empty for a single process. Waits a few seconds."""
        if self.num_processes == 1:
            return ""
        self._send("suspect", None)
        try:
            return self._conclusions.get(timeout=ANSWER_SECS)
        except queue.Empty:
            return does_not_respond(0, self.hosts[0])

    def send_pace(self, pace: Any) -> None:
        """Sends how fast this process works to process 0; nobody waits for it."""
        self._send("pace", pace)

    def paces(self) -> dict[int, Any]:
        """Returns the newest paces that processes have sent, by process; empty except on process 0."""
        return dict(self._server.paces) if self._server else {}

    @contextlib.contextmanager
    def explain_failures(self) -> Iterator[None]:
        """Converts an exception inside the block to `ProcessLost` if a process has been lost.

        Over gloo a collective fails when a process is gone, without naming the process.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if self.num_processes > 1 and self._lost.wait(NOTICE_SECS):
                raise self._loss from error
            raise

    def __enter__(self) -> "ControlPlane":
        return self

    def __exit__(self, kind, error: BaseException | None, traceback) -> None:
        if self.num_processes == 1:
            return
        exit_code, sentence = ending_of(error)
        if exit_code:
            # JAX would wait at exit for the others, which no longer respond, and then abort with
            # its own exit code. The function registered last runs first.
            atexit.register(self._end_at_once, exit_code)
        self.leave(exit_code, sentence)

    def _end_at_once(self, exit_code: int) -> None:
        streams.flush()
        self._end_process(exit_code)

    def _join(self, timeout_secs: float, token: RunToken) -> None:
        end = time.monotonic() + timeout_secs
        if self.is_main_process:
            self._server = ControlServer(
                self._address, self.num_processes, timeout_secs, _read_own_token(token), self._log
            )
            self._server.start()
        self._socket, self._lines = self._call_until(end, timeout_secs, token)
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="jaxdp-control-plane", daemon=True).start()
        try:
            self.hosts = self._next_answer(timeout_secs + CALL_SECS)
        except BaseException:
            self._left.set()  # the exception ends the process, so the thread must not
            raise

    def _call_until(self, end: float, timeout_secs: float, token: RunToken):
        """Connects to process 0, with retries until `end`.

        Raises:
            UserError: The token is refused for `TOKEN_SECS`, or was refused at the last response of process 0, which
                may have exited since.
            ProcessLost: Process 0 does not respond in time. Process 0, kept from itself by a flood of callers, waits for
                its server's word, which names them.
        """
        refused_since = refusal = None
        while True:
            now = time.monotonic()
            try:
                deadline = min(now + CALL_SECS, max(end, now + RETRY_SECS))
                return call_control_server(self._address, self.process_index, self.num_processes, token, deadline)
            except (OSError, ValueError) as error:
                refused = isinstance(error, TokenRefused) and not self.is_main_process
                refused_since = (refused_since or now) if refused else None
                if refused or not isinstance(error, OSError):
                    refusal = error if refused else None
                if refusal and time.monotonic() > min(end, (refused_since or end) + TOKEN_SECS):
                    raise UserError(refused_message(self._processes, self.hosts[0], token.origin, refusal)) from error
                if time.monotonic() > end and not (self._server and self._server.was_called):
                    raise ProcessLost(
                        unreachable_message(self._processes, self.hosts[0], timeout_secs, error)
                    ) from error
                if self._server and self._server.error:
                    raise self._server.error from error
            time.sleep(RETRY_SECS)

    def _listen(self) -> None:
        """Receives messages of process 0 until the run cannot continue; body of the thread."""
        try:
            while True:
                kind, content = self._lines.read(MAX_LINE_BYTES * self.num_processes)
                if kind == "end":
                    exit_code, sentence = ending(content)
                    break
                if kind == "where":
                    self._send("here", self._activity()._asdict())
                    continue
                if kind == "culprits" and isinstance(content, str):
                    self._conclusions.put(content)
                    continue
                if kind != "all" or not isinstance(content, list) or len(content) != self.num_processes:
                    raise ValueError("process 0 sent an unexpected message")
                self._answers.put(content)
        except (OSError, ValueError):
            exit_code, sentence = self._why_gone()
        except Exception as error:  # a silent end of the thread would block the run
            exit_code, sentence = 70, f"the control plane failed ({type(error).__name__}: {error})"
        advice = self._advice() if exit_code == 70 and not self._left.is_set() else ""
        self._loss = ProcessLost(f"{sentence.rstrip('.')}; this one stops too.{advice and f' {advice}.'}", exit_code)
        self._lost.set()
        self._answers.put(None)
        self._conclusions.put(sentence.rstrip("."))
        if not self._left.wait(LINGER_SECS):
            self._log(str(self._loss))
            self._end_process(self._loss.exit_code)
        self._socket.close()

    def _why_gone(self) -> tuple[int, str]:
        """Returns exit code and sentence after the connection to process 0 has ended."""
        if self._server and self._server.error:
            return self._server.error.exit_code, str(self._server.error)
        return 70, f"process 0 on {self.hosts[0]} is gone"

    def _next_answer(self, timeout_secs: float | None = None) -> Any:
        """Waits for the parts of all processes; without a timeout the watchdog limits the wait."""
        try:
            answer = self._answers.get(timeout=timeout_secs)
        except queue.Empty:
            raise ProcessLost(
                f"process 0 at --coordinator={self._address} did not say within {timeout_secs:g} s who is there"
            ) from None
        if answer is None:
            raise self._loss
        return answer

    def _send(self, kind: str, content: Any) -> None:
        with self._sending, contextlib.suppress(OSError):  # the receiving thread reports it
            self._socket.sendall(message(kind, content))


def _read_own_token(token: RunToken) -> bytes:
    """Reads the token that process 0 has written."""
    try:
        return token.read()
    except (OSError, ValueError) as error:
        raise UserError(f"process 0 cannot read {token.origin} ({error}); set {VARIABLE} for all processes.") from error
