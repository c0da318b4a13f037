"""Handshake of the control plane: mutual authentication by HMAC with the run token, which is never sent.

Process 0 sends a nonce. The caller replies with its index, the number of processes,
its host, its own nonce, and an HMAC-SHA256 over all of this and process 0's nonce,
keyed with the token; process 0 replies with an HMAC over the same data and another
label. So both sides are authenticated, and recorded proofs cannot be replayed.
"""

import hashlib
import hmac
import json
import secrets
import socket
import time
from typing import Any, NamedTuple

from jaxdp.parallel.addresses import split_address
from jaxdp.parallel.control_messages import (
    MAX_HANDSHAKE_BYTES,
    LineReader,
    configure_connection,
    message,
)
from jaxdp.parallel.processes import MAX_PROCESSES
from jaxdp.parallel.run_token import RunToken

MAX_HOST_CHARACTERS = 255

SEND_SECS = 60.0
"""Timeout of a send to process 0 after the handshake."""

_TICK_SECS = 1.0
"""Interval at which a reader with a deadline checks the clock."""


class TokenRefused(ValueError):
    """Raised if process 0 does not accept this process's token, or the token does not exist yet."""


class Hello(NamedTuple):
    """Identity of a caller; `proof` shows that it knows the run token."""

    process: int
    of: int
    host: str
    nonce: str
    proof: str


def new_nonce() -> str:
    """Returns 128 random bits."""
    return secrets.token_hex(16)


def read_hello(content: Any) -> Hello | None:
    """Parses a hello; None if types or ranges are wrong."""
    if not isinstance(content, dict) or content.keys() != set(Hello._fields):
        return None
    hello = Hello(**content)
    is_text = all(isinstance(text, str) for text in (hello.host, hello.nonce, hello.proof))
    is_number = type(hello.process) is int and type(hello.of) is int
    if not is_text or not is_number or not 0 <= hello.process < hello.of <= MAX_PROCESSES:
        return None
    return hello if hello.host.isprintable() and len(hello.host) <= MAX_HOST_CHARACTERS else None


def proof_of(token: bytes, label: str, challenge: str, hello: Hello) -> str:
    """Returns the HMAC with which one side proves that it knows the token.

    Args:
        token: Run token.
        label: Side of the proof, "process" or "control server", so that neither can be used as the other.
        challenge: Nonce of process 0.
        hello: Hello of the caller; its `proof` is not signed.
    """
    signed = json.dumps([label, challenge, hello.nonce, hello.process, hello.of, hello.host]).encode()
    return hmac.new(token, signed, hashlib.sha256).hexdigest()


def is_proof(given: str, expected: str) -> bool:
    """Compares two proofs in constant time."""
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


def call_control_server(
    address: str, process: int, num_processes: int, token: RunToken, deadline: float
) -> tuple[socket.socket, LineReader]:
    """Connects to process 0 and proves to be a process of this run.

    Args:
        address: HOST:PORT of process 0.
        process: Index of this process.
        num_processes: Number of processes of the run.
        token: Run token; read again at every call, since process 0 writes it at its start.
        deadline: Time of `time.monotonic` at which the handshake must be complete.

    Returns:
        The connection, with a send timeout of `SEND_SECS`, and its reader.

    Raises:
        TokenRefused: Process 0 does not accept the token.
        OSError: The address does not respond.
        ValueError: The responder is not process 0 of this run.
    """
    connection = socket.create_connection(split_address(address), timeout=max(deadline - time.monotonic(), 0.1))
    try:
        configure_connection(connection)
        connection.settimeout(_TICK_SECS)
        lines = LineReader(connection)
        challenge = _expect("challenge", lines, deadline)
        if not isinstance(challenge, str):
            raise ValueError("what answers there is not process 0 of a run of this version of jaxdp")
        secret = _secret(token)
        hello = Hello(process, num_processes, socket.gethostname()[:MAX_HOST_CHARACTERS], new_nonce(), "")
        hello = hello._replace(proof=proof_of(secret, "process", challenge, hello))
        connection.settimeout(max(deadline - time.monotonic(), _TICK_SECS))
        connection.sendall(message("hello", hello._asdict()))
        connection.settimeout(_TICK_SECS)
        proof = _expect("welcome", lines, deadline)
        if not isinstance(proof, str) or not is_proof(proof, proof_of(secret, "control server", challenge, hello)):
            raise ValueError("what answers there does not know the token of this run")
        connection.settimeout(SEND_SECS)
        return connection, lines
    except BaseException:
        connection.close()
        raise


def _expect(wanted: str, lines: LineReader, deadline: float) -> Any:
    try:
        kind, content = lines.read(MAX_HANDSHAKE_BYTES, deadline)
    except ValueError as error:
        raise ValueError(f"what answers there is not process 0 of a run: {error}") from error
    if kind == "refused" and wanted == "welcome":
        raise TokenRefused("process 0 does not know the token of this process")
    if kind != wanted:
        raise ValueError("what answers there is not process 0 of a run of this version of jaxdp")
    return content


def _secret(token: RunToken) -> bytes:
    try:
        return token.read()
    except OSError as error:
        raise TokenRefused(f"{token.origin} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise TokenRefused(str(error)) from error
