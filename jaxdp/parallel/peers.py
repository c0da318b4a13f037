"""The line between the processes of a run, beside the one between their devices.

JAX aborts without a word of Python when a process is missing, comes twice or
dies (exit code 134), and a collective waits for ever for one that has left. So
before JAX connects, every process calls process 0 at the coordinator's address
and stays on the line: there they learn who is missing, ask each other what they
must agree on before their devices can, and hear at once when one stops.
"""

import atexit
import contextlib
import json
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jaxdp import streams
from jaxdp.errors import PeerLost, UserError
from jaxdp.parallel.addresses import is_loopback
from jaxdp.parallel.processes import ALONE, Processes
from jaxdp.parallel.switchboard import Switchboard, message

RETRY_SECS = 0.2
"""Between two calls of a process 0 that does not answer yet."""

NOTICE_SECS = 3.0
"""By then the loss of a process is known that a failing collective may be due to."""

CALL_SECS = 10.0
"""How long one call may take; process 0 answers at once."""

LINGER_SECS = 5.0
"""What a process may still do, such as end a save, when another one has taken the run down."""


class Peers:
    """The other processes, while the run lasts; a context manager.

    For a process alone every question is answered by itself.
    """

    def __init__(
        self,
        processes: Processes,
        timeout_secs: float,
        report: Callable[[str], None],
        end_process: Callable[[int], None] = os._exit,
    ):
        """Meets the others; returns when all are there.

        Args:
            processes: how many, which one this is, and where process 0 listens.
            timeout_secs: how long to wait for all.
            report: where the loss of a process goes when this one is held up.
            end_process: ends this process with an exit code, from a thread.

        Raises:
            UserError: someone is missing or wrongly numbered, or the address is wrong.
        """
        self.num_processes, self.process_index = processes.num_processes, processes.process_index
        self.hosts = [socket.gethostname()]
        self._address = processes.coordinator
        self._report, self._end_process = report, end_process
        self._left = threading.Event()
        self._lost = threading.Event()
        self._loss = PeerLost("no process is lost")
        self._switchboard: Switchboard | None = None
        self._socket: socket.socket | None = None
        if self.num_processes > 1:
            self._join(timeout_secs)

    @classmethod
    def alone(cls) -> "Peers":
        """For a process that has none."""
        return cls(ALONE, 0.0, lambda sentence: None)

    @property
    def is_first(self) -> bool:
        return self.process_index == 0

    def gather(self, part: Any) -> list[Any]:
        """What every process gave, in the order of their indices; each must call it equally often.

        Args:
            part: JSON.

        Raises:
            PeerLost: one of them stopped.
        """
        if self.num_processes == 1:
            return [part]
        self._send("say", part)
        return self._next_answer()

    def tell(self, part: Any) -> Any:
        """What process 0 gave; what the others give is not looked at."""
        return self.gather(part if self.is_first else None)[0]

    def leave(self, exit_code: int = 0, sentence: str = "") -> None:
        """Says that this process stops; unless the exit code is 0, the others stop too.

        Process 0 then waits for them, since when it ends JAX aborts them.
        """
        if self.num_processes == 1 or self._left.is_set():
            return
        self._left.set()
        self._send("leave", {"exit_code": exit_code, "sentence": sentence})
        if exit_code and self._switchboard:
            self._switchboard.join(LINGER_SECS + NOTICE_SECS)

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Inside, a fault that the loss of a process explains becomes that loss.

        Over gloo a collective fails when a process is gone, and tells neither which nor where.
        """
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            if self.num_processes > 1 and self._lost.wait(NOTICE_SECS):
                raise self._loss from error
            raise

    def __enter__(self) -> "Peers":
        return self

    def __exit__(self, kind, error: BaseException | None, traceback) -> None:
        if self.num_processes == 1:
            return
        exit_code, sentence = _exit_of(error)
        if exit_code:
            # JAX would wait at its end for the others, which no longer answer, and then abort with
            # an exit code of its own. What is registered last runs first.
            atexit.register(self._end_at_once, exit_code)
        self.leave(exit_code, sentence)

    def _end_at_once(self, exit_code: int) -> None:
        streams.flush()
        self._end_process(exit_code)

    def _join(self, timeout_secs: float) -> None:
        end = time.monotonic() + timeout_secs
        if self.is_first:
            self._switchboard = Switchboard(self._address, self.num_processes, timeout_secs)
            self._switchboard.start()
        while True:
            try:
                self._call(min(CALL_SECS, max(end - time.monotonic(), RETRY_SECS)))
                break
            except (OSError, ValueError) as error:
                self._hang_up()
                if time.monotonic() > end:
                    raise PeerLost(self._why_unreachable(error, timeout_secs)) from error
                if self._switchboard and self._switchboard.error:  # the others were here first
                    raise self._switchboard.error from error
            time.sleep(RETRY_SECS)
        self._answers: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="jaxdp-peers", daemon=True).start()
        self.hosts = self._next_answer()

    def _call(self, timeout_secs: float) -> None:
        """Connects and says hello; raises OSError or ValueError unless a switchboard answers."""
        host, _, port = self._address.rpartition(":")
        self._socket = None
        self._socket = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_secs)
        self._lines = self._socket.makefile("rb")
        # A machine that vanishes says no goodbye: after two minutes of unanswered probes it is gone.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, option):
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._send("hello", {"process": self.process_index, "of": self.num_processes, "host": socket.gethostname()})
        kind, content = json.loads(self._lines.readline())
        if kind == "end":
            self._hang_up()
            raise PeerLost(content["sentence"], content["exit_code"])
        self._socket.settimeout(None)

    def _listen(self) -> None:
        """The thread that hears what process 0 says, until it says that the run cannot go on."""
        kind, content = "", None
        while kind != "end":
            try:
                kind, content = json.loads(self._lines.readline())
            except (OSError, ValueError):
                content = {"exit_code": 70, "sentence": f"process 0 on {self.hosts[0]} is gone"}
                kind = "end"
            if kind == "all":
                self._answers.put(content)
        self._loss = PeerLost(f"{content['sentence'].rstrip('.')}; this one stops too.", content["exit_code"])
        self._lost.set()
        self._answers.put(None)
        if not self._left.wait(LINGER_SECS):
            self._report(str(self._loss))
            self._end_process(self._loss.exit_code)
        self._hang_up()

    def _next_answer(self) -> Any:
        answer = self._answers.get()
        if answer is None:
            raise self._loss
        return answer

    def _send(self, kind: str, content: Any) -> None:
        with contextlib.suppress(OSError):  # the listening thread sees it too, and knows more
            self._socket.sendall(message(kind, content))

    def _hang_up(self) -> None:
        if self._socket:
            self._lines.close()
            self._socket.close()

    def _why_unreachable(self, error: Exception, timeout_secs: float) -> str:
        why = f"{self._address} did not answer within {timeout_secs:g} s (parallel.init_timeout_secs): {error}"
        if self.is_first:
            return (
                f"process 0 on {self.hosts[0]} cannot reach itself, --coordinator={why}; "
                "it must name the machine on which process 0 runs."
            )
        loopback = (
            "; this address is every machine's name for itself, so if process 0 runs on another one, "
            "give the name or number of that"
            if is_loopback(self._address)
            else ""
        )
        return (
            f"process {self.process_index} of {self.num_processes} on {self.hosts[0]} misses process 0: "
            f"--coordinator={why}; look at what process 0 says, and whether this machine can reach that "
            f"address{loopback}."
        )


def _exit_of(error: BaseException | None) -> tuple[int, str]:
    """Exit code and sentence of what ends this process."""
    if error is None:
        return 0, ""
    described = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, UserError):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "it was interrupted"
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code, "it was told to stop at once"
    return getattr(error, "exit_code", 70), described
