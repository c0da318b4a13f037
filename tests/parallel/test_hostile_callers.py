"""Strangers at the coordinator's port: whatever they send, the run goes on or ends as without them.

Threads stand for the processes, as in `test_control_plane`. All strangers are on loopback.
"""

import contextlib
import errno
import itertools
import json
import random
import socket
import threading
import time

import pytest
from hostile_lines import HOSTILE, hello
from test_control_plane import (
    HOST,
    LONG_SECS,
    address,
    answered,
    call,
    end_time,
    servers,
    short_waits,
    stranger_at,
)
from tiny_processes import TOKEN

from jaxdp.errors import ProcessLost, UserError
from jaxdp.parallel import control_connection, control_server
from jaxdp.parallel import control_plane as control_plane_module
from jaxdp.parallel.control_handshake import Hello, call_control_server
from jaxdp.parallel.control_messages import MAX_HANDSHAKE_BYTES, LineReader, message
from jaxdp.parallel.run_token import VARIABLE, RunToken

__all__ = ["address", "call", "servers", "short_waits"]

OTHER_TOKEN = RunToken(TOKEN._path, {VARIABLE: "the token of another run"})


REFUSED = r".* connections were refused, the last one from 127"


def function(control_plane):
    return control_plane.hosts, control_plane.allgather(control_plane.process_index)


EXPECTED = ([HOST, HOST], [0, 1])


def send_all(stranger, data):
    """Sends what the other side takes."""
    with contextlib.suppress(OSError):  # it has hung up, as it may
        stranger.sendall(data)


def until_hung_up(stranger):
    """Returns the data received until the other side closed the connection."""
    received = b""
    stranger.settimeout(LONG_SECS)
    try:
        while chunk := stranger.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("lines", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_lines_change_nothing(call, address, lines):
    first = call(0, 2, function)
    with stranger_at(address, first) as stranger:
        send_all(stranger, lines)
        if lines and (b"\n" in lines or len(lines) > MAX_HANDSHAKE_BYTES):
            assert b"welcome" not in until_hung_up(stranger)  # at once, not only when all are there
            assert not first.done()
        second = call(1, 2, function)
        assert first.result() == second.result() == EXPECTED


@pytest.mark.parametrize("lines", [HOSTILE["hello, then leave"], HOSTILE["open brackets"], b""])
def test_hostile_lines_do_not_hide_who_is_missing(call, address, servers, lines):
    first = call(0, 2)
    with stranger_at(address, first) as stranger:
        send_all(stranger, lines)
        end_time(servers, first, lambda server: 0 in server._members and (server._num_refusals or lines[:2] != b'["'))
        with pytest.raises(ProcessLost, match=r"process 1 of 2 did not come to .* within 120 s") as loss:
            first.result()
    assert loss.value.exit_code == 70
    sentence = str(loss.value)
    assert "\x1b" not in sentence and "haha" not in sentence
    if lines.startswith(b'["hello"'):
        assert (
            "One connection was refused, the last one from 127.0.0.1 (it has another token, and says it is process 1 on x)"
            in sentence
        )


def test_an_unauthenticated_caller_that_sends_nothing_or_single_bytes_is_dropped(call, address, monkeypatch):
    monkeypatch.setattr(control_server, "HELLO_SECS", 0.3)
    first = call(0, 2, function)
    with stranger_at(address, first) as idle, stranger_at(address, first) as slow:
        stop = threading.Event()

        def drip():
            while not stop.wait(0.02):
                send_all(slow, b"[")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            for stranger in (idle, slow):
                assert until_hung_up(stranger).split(b"\n")[1] == message("refused", None).strip()
        finally:
            stop.set()
            dripping.join()
        assert not first.done()
        monkeypatch.setattr(control_server, "HELLO_SECS", LONG_SECS)
        assert call(1, 2, function).result() == first.result() == EXPECTED


def test_callers_without_end_do_not_keep_process_0_past_its_time(call, address):
    """There is always something to read, so the time must be looked at all the same."""
    first = call(0, 2, timeout_secs=1.0)
    stranger_at(address, first).close()
    host, port = address.split(":")
    while not first.done():
        try:
            with socket.create_connection((host, int(port)), timeout=1) as stranger:
                send_all(stranger, hello())
        except OSError:
            continue
    with pytest.raises(ProcessLost, match=f"1 of 2 did not come to {REFUSED}"):  # both, where 0 was kept from itself
        first.result()


def test_process_0_kept_from_itself_by_callers_does_not_blame_its_address(call, address, servers, monkeypatch):
    def is_never_served(*_):
        raise TimeoutError("timed out")

    monkeypatch.setattr(control_plane_module, "call_control_server", is_never_served)
    first = call(0, 2)
    for _ in range(2):
        with stranger_at(address, first) as stranger:
            send_all(stranger, hello())
            until_hung_up(stranger)
    end_time(servers, first, lambda server: server._num_refusals == 2)
    with pytest.raises(ProcessLost, match=f"processes 0, 1 of 2 did not come to {REFUSED}"):
        first.result()


def test_a_flood_of_connections_is_bounded_and_processes_still_connect(call, address, monkeypatch):
    monkeypatch.setattr(control_server, "MAX_UNAUTHENTICATED", 8)
    held = []
    servers = watched_servers(monkeypatch)
    first = call(0, 2, function)
    try:
        for _ in range(200):
            held.append(stranger_at(address, first))
        assert b"refused" in until_hung_up(held[0])
        assert call(1, 2, function).result() == first.result() == EXPECTED
    finally:
        for stranger in held:
            stranger.close()
    [server] = servers
    assert 8 <= server.most_strangers <= 11


def watched_servers(monkeypatch):
    """The control servers that are started, each with the most strangers it had at once."""
    servers = []

    class Watched(control_server.ControlServer):
        most_strangers = 0

        def run(self):
            servers.append(self)
            super().run()

        def _serve_once(self):
            super()._serve_once()
            self.most_strangers = max(self.most_strangers, len(self._unauthenticated))

    monkeypatch.setattr(control_plane_module, "ControlServer", Watched)
    return servers


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED])
def test_running_out_of_file_descriptors_ends_nothing(call, address, number, monkeypatch):
    accept, refusals = socket.socket.accept, iter([True] * 3)
    port = int(address.split(":")[1])

    def accept_later(listener):
        if listener.getsockname()[1] == port and next(refusals, False):
            raise OSError(number, "reason")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", accept_later)
    monkeypatch.setattr(control_server, "ACCEPT_PAUSE_SECS", 0.05)
    answers = [call(index, 2, function) for index in range(2)]
    for answer in answers:
        assert answer.result() == EXPECTED
    assert next(refusals, None) is None


def test_while_descriptors_are_short_the_listener_rests(call, address, servers, monkeypatch):
    """Else the thread would spin: the caller stays in the queue."""
    times = []
    port = int(address.split(":")[1])

    def refuse(listener):
        assert listener.getsockname()[1] == port
        times.append(time.monotonic())
        raise OSError(errno.EMFILE, "reason")

    monkeypatch.setattr(socket.socket, "accept", refuse)
    first = call(0, 2)
    end_time(servers, first, lambda server: len(times) >= 3)
    with pytest.raises(UserError):
        first.result()
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(pauses) >= 0.9 * control_server.ACCEPT_PAUSE_SECS


@pytest.mark.parametrize("method", ["_accept", "_authenticate", "_send_when_complete"])
def test_a_control_server_that_fails_ends_the_run_with_a_sentence(call, method, monkeypatch):
    def fails(*_):
        raise RuntimeError("a fault")

    monkeypatch.setattr(control_server.ControlServer, method, fails)
    with pytest.raises(ProcessLost, match=r"the control server of process 0 failed \(RuntimeError: a fault\)") as loss:
        call(0, 2).result()
    assert loss.value.exit_code == 70


def test_a_control_server_that_fails_later_ends_all(call, monkeypatch):
    ready = threading.Barrier(3)

    def allgather_twice(control_plane):
        ready.wait(LONG_SECS)
        return control_plane.allgather(None)

    answers = [call(index, 3, allgather_twice) for index in range(2)]
    third = call(2, 3, lambda control_plane: (break_server(monkeypatch), allgather_twice(control_plane)))
    for answer in (*answers, third):
        with pytest.raises(
            ProcessLost, match=r"the control server of process 0 failed \(KeyError: 'fault'\); this one stops too"
        ):
            answer.result()


def break_server(monkeypatch):
    def fails(*_):
        raise KeyError("fault")

    monkeypatch.setattr(control_server.ControlServer, "_handle_line", fails)


def test_a_listening_thread_that_fails_ends_its_process(call, monkeypatch):
    read = LineReader.read

    def fails(lines, max_bytes, deadline=None):
        if deadline is None:
            raise MemoryError("too long")
        return read(lines, max_bytes, deadline)

    monkeypatch.setattr(LineReader, "read", fails)
    with pytest.raises(ProcessLost, match=r"the control plane failed \(MemoryError: too long\); this one stops too"):
        call(0, 2).result()


def joined(call, address, process, num_processes, *others):
    """A connection that has proven to be a process of the run, without what a process does with it."""
    answers = [call(index, num_processes, function) for index in others]
    connection, lines = answered(
        lambda: call_control_server(address, process, num_processes, TOKEN, time.monotonic() + LONG_SECS), answers[0]
    )
    return connection, lines, answers


@pytest.mark.parametrize(
    "lines",
    [
        message("leave", 5), message("leave", {"exit_code": "3", "sentence": "x"}), message("leave", {"exit_code": -1, "sentence": "x"}),
        message("leave", {"exit_code": True, "sentence": "x"}), message("leave", {"exit_code": 2}), message("leave", None),
        message("part", 1) * 2, hello(), b"[" * 200_000 + b"\n", b"noise\n",
    ],
)  # fmt: skip
def test_a_bad_line_of_a_process_is_its_end(call, address, lines):
    """One that knows the token and speaks another language has a fault; the run ends with its name."""
    connection, reader, [first] = joined(call, address, 1, 2, 0)
    with connection:
        assert reader.read(1000, time.monotonic() + LONG_SECS) == ("all", [HOST, HOST])
        connection.sendall(lines)
        if lines.startswith(b'["part"'):
            return  # the second may be of the next question by now
        with pytest.raises(
            ProcessLost, match=f"process 1 on {HOST} sent what is not of the control plane; this one stops too"
        ):
            first.result()


def test_a_line_without_an_end_is_bounded_after_the_handshake_too(call, address, monkeypatch):
    monkeypatch.setattr(control_connection, "MAX_LINE_BYTES", 100_000)
    connection, reader, [first] = joined(call, address, 1, 2, 0)
    with connection:
        assert reader.read(1000, time.monotonic() + LONG_SECS)[0] == "all"
        send_all(connection, b"x" * 1_000_000)
        with pytest.raises(ProcessLost, match=f"process 1 on {HOST} is gone"):
            first.result()


def test_a_process_that_does_not_read_does_not_block_the_others(call, address):
    """As one that is stopped for a while; what is sent to it waits."""

    def large(control_plane):
        return [len(part) for part in control_plane.allgather("x" * 8_000_000)]

    answers = [call(index, 3, large) for index in (0, 2)]
    connection, lines = answered(
        lambda: call_control_server(address, 1, 3, TOKEN, time.monotonic() + LONG_SECS), answers[0]
    )
    with connection:
        assert lines.read(1000, time.monotonic() + LONG_SECS)[0] == "all"
        connection.sendall(message("part", "y" * 8_000_000))
        for answer in answers:
            assert answer.result(LONG_SECS) == [8_000_000] * 3
        assert lines.read(10**8, time.monotonic() + LONG_SECS)[0] == "all"


def test_both_ends_notice_a_machine_that_vanishes(call, address, monkeypatch):
    servers = watched_servers(monkeypatch)

    def options(control_plane):
        control_plane.allgather(None)
        sockets = [
            control_plane._socket,
            *(connection.socket for server in servers for connection in server._members.values()),
        ]
        return [end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for end in sockets], control_plane.allgather(
            None
        )

    answers = [call(index, 2, options) for index in range(2)]
    assert answers[0].result() == ([1, 1, 1], [None, None]) == answers[1].result()


def test_random_lines_change_nothing(call, address):
    """Valid messages with random parts replaced, and noise."""
    draws = random.Random(0)
    first = call(0, 2, function)
    for _ in range(200):
        kind = draws.choice(["hello", "part", "leave", "all", "end", "welcome", "challenge", "", "\u0000", 5, None])
        values = [-1, 0, 1, 2, 2**63, 1.5, True, None, "x", "\ud800", [], {}, [[1]], "0" * 64]
        content = draws.choice([{key: draws.choice(values) for key in Hello._fields}, draws.choice(values)])
        line = bytearray(json.dumps([kind, content]).encode() + b"\n")
        for _ in range(draws.choice([0, 0, 1, 5])):
            line[draws.randrange(len(line))] = draws.randrange(256)
        with stranger_at(address, first) as stranger:
            send_all(stranger, bytes(line))
    assert call(1, 2, function).result() == first.result() == EXPECTED
