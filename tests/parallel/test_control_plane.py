"""The line between processes: threads stand for them, each with its own end of it."""

import concurrent.futures
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from tiny_processes import TOKEN

from jaxdp.errors import ProcessLost, UserError
from jaxdp.parallel import addresses, control_server
from jaxdp.parallel import control_plane as control_plane_module
from jaxdp.parallel.control_handshake import call_control_server
from jaxdp.parallel.control_plane import ControlPlane
from jaxdp.parallel.processes import Processes

HOST = socket.gethostname()

LONG_SECS = 120.0
"""A limit that nothing here reaches, however busy the machine is."""


@pytest.fixture
def address():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(control_plane_module, "LINGER_SECS", 0.2)
    monkeypatch.setattr(control_plane_module, "NOTICE_SECS", 10.0)
    monkeypatch.setattr(addresses, "BIND_SECS", 0.2)
    monkeypatch.setattr(control_server, "FIRST_REPORT_SECS", 1e6)


@pytest.fixture
def call(address):
    """Starts `function(control_plane)` as process `index`; returns a future, with what it reported and its forced end."""
    pool = concurrent.futures.ThreadPoolExecutor(8)

    def start(
        index,
        num_processes=2,
        function=lambda control_plane: control_plane.hosts,
        timeout_secs=LONG_SECS,
        at=address,
        ended=None,
        token=TOKEN,
        log=None,
    ):
        ended = [] if ended is None else ended

        def run():
            with ControlPlane(
                Processes(num_processes, index, at), timeout_secs, log or ended.append, ended.append, token=token
            ) as control_plane:
                return function(control_plane)

        return pool.submit(run)

    yield start
    pool.shutdown()


@pytest.fixture
def servers(monkeypatch):
    """The control servers that are started; they look at the time often."""
    started = []
    begin = control_server.ControlServer.start

    def start(server):
        started.append(server)
        begin(server)

    monkeypatch.setattr(control_server.ControlServer, "start", start)
    monkeypatch.setattr(control_server, "MAX_WAIT_SECS", 0.02)
    return started


def wait_until(condition, process):
    """Waits until something is true while a process goes on."""
    while not condition():
        assert not process.done(), process.exception()
        time.sleep(0.005)


def end_time(servers, process_0, when):
    """Lets the time of process 0 for the arrival of all be up as soon as `when(server)` is true."""
    wait_until(lambda: servers and when(servers[0]), process_0)
    servers[0]._deadline = time.monotonic()


@pytest.fixture
def clock(monkeypatch):
    """The time of processes that call process 0, which a test lets pass by adding to `later`."""
    moved = SimpleNamespace(later=0.0)
    monotonic = time.monotonic
    moved_time = SimpleNamespace(monotonic=lambda: monotonic() + moved.later, sleep=time.sleep)
    monkeypatch.setattr(control_plane_module, "time", moved_time)
    return moved


def answered(function, process_0):
    """Returns the result of a call, retried until process 0 listens."""
    while True:
        try:
            return function()
        except ConnectionRefusedError:
            assert not process_0.done()


def stranger_at(address, process_0):
    """A connection of someone who does not know the token."""
    host, port = address.split(":")
    return answered(lambda: socket.create_connection((host, int(port))), process_0)


def test_a_process_alone_needs_no_line():
    with ControlPlane(Processes(), 0.0, print) as control_plane:
        assert control_plane.is_main_process
        assert control_plane.allgather({"a": 1}) == [{"a": 1}]
        assert control_plane.broadcast("x") == "x"


def test_all_hear_all_in_the_order_of_their_indices(call):
    def function(control_plane):
        first = control_plane.allgather(f"from {control_plane.process_index}")
        return (
            control_plane.hosts,
            first,
            control_plane.broadcast(10 + control_plane.process_index),
            control_plane.allgather(None),
        )

    answers = [call(index, 3, function).result for index in (2, 0, 1)]
    for answer in answers:
        assert answer() == ([HOST] * 3, ["from 0", "from 1", "from 2"], 10, [None] * 3)


def test_many_messages_of_any_size_arrive_whole(call):
    def function(control_plane):
        return [len(control_plane.allgather("x" * (1000 * size))[1]) for size in range(50)]

    for answer in [call(index, 2, function) for index in range(2)]:
        assert answer.result() == [1000 * size for size in range(50)]


def test_the_port_is_free_once_all_have_arrived(call, address):
    def function(control_plane):
        if control_plane.is_main_process:
            with socket.create_server(("", int(address.split(":")[1]))):
                pass
        return control_plane.allgather(1)

    for answer in [call(index, 2, function) for index in range(2)]:
        assert answer.result() == [1, 1]


def test_process_0_says_for_whom_it_waits(call, address, servers):
    said = []
    answers = [call(index, 4, log=said.append) for index in (0, 2)]
    wait_until(lambda: servers and servers[0]._members.keys() == {0, 2}, answers[0])
    assert said == []
    for count in (1, 2):
        servers[0]._start -= 10
        servers[0]._next_report = time.monotonic()
        wait_until(lambda count=count: len(said) == count, answers[0])
        assert servers[0]._next_report - time.monotonic() > 10 * count - 5
    answers += [call(index, 4) for index in (1, 3)]
    for answer in answers:
        answer.result()
    sentence = "waiting for processes 1, 3 of 4 at --coordinator={}: {} of 120 s (parallel.init_timeout_secs)"
    assert all(any(line == sentence.format(address, secs) for secs in range(10, 120)) for line in said)


def test_who_does_not_come_is_named_to_those_that_did(call, address, servers):
    answers = [call(index, 5) for index in (0, 2)]
    end_time(servers, answers[0], lambda server: server._members.keys() == {0, 2})
    for answer in answers:
        with pytest.raises(ProcessLost) as refusal:
            answer.result()
        assert refusal.value.exit_code == 70
        assert f"processes 1, 3, 4 of 5 did not come to --coordinator={address} within 120 s" in str(refusal.value)
        assert f"processes 0 on {HOST}, 2 on {HOST} did" in str(refusal.value)


def test_without_process_0_the_address_is_named(call, address):
    with pytest.raises(ProcessLost) as refusal:
        call(1, timeout_secs=0.3).result()
    sentence = str(refusal.value)
    assert f"process 1 of 2 on {HOST} misses process 0: --coordinator={address} did not answer within 0.3 s" in sentence
    assert "this address is every machine's name for itself" in sentence


def test_a_name_that_nobody_has(call):
    with pytest.raises(ProcessLost, match=r"--coordinator=no\.such\.host\.invalid:1 did not answer") as refusal:
        call(1, timeout_secs=0.3, at="no.such.host.invalid:1").result()
    assert "every machine's name" not in str(refusal.value)


def test_process_0_must_be_where_the_address_leads(call):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere, socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        with pytest.raises(
            ProcessLost, match=f"process 0 on {HOST} cannot reach itself, --coordinator=192.0.2.1:{port}"
        ):
            call(0, timeout_secs=0.5, at=f"192.0.2.1:{port}").result()
        assert elsewhere


def test_a_port_in_use_is_reported(call, address):
    port = int(address.split(":")[1])
    with socket.create_server(("", port)), pytest.raises(UserError, match=f"cannot listen at port {port} of {HOST}"):
        call(0).result()


def test_an_index_that_comes_twice_stops_all(call):
    first = call(0, 3)
    answers = [first, call(1, 3), call(1, 3)]
    for answer in answers:
        with pytest.raises(UserError, match=f"two processes have index 1, one on {HOST} and one on {HOST}") as refusal:
            answer.result()
        assert refusal.value.exit_code == 2


def test_a_number_of_processes_that_differs_stops_all(call):
    for answer in [call(0, 2), call(2, 3)]:
        with pytest.raises(
            UserError, match=r"process 2 on .* was started as one of 3 processes, process 0 as one of 2"
        ):
            answer.result()


@pytest.mark.parametrize(
    "noise",
    [
        b"",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b'["part", 1]\n',
        b'{"a": 1}\n',
        b"[1]\n",
        b'["hello", 5]\n',
        b'["hello", {"process": "1"}]\n',
    ],
)
def test_unauthenticated_callers_do_no_harm(call, address, noise):
    first = call(0, 2)
    stranger = stranger_at(address, first)
    with stranger:
        stranger.sendall(noise)
        second = call(1, 2)
        assert first.result() == second.result() == [HOST, HOST]


def test_what_answers_but_is_no_run_is_called_again(call, address):
    """Such as JAX's own service of a run that is just ending."""
    host, port = address.split(":")
    with socket.create_server((host, int(port))) as other:
        second = call(1, 2)
        caller, _ = other.accept()
        caller.sendall(b"\0\0\6\4\0\0\0\0\0\n")
        caller.close()
    first = call(0, 2)
    assert first.result() == second.result() == [HOST, HOST]


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_stops_with_an_error_takes_the_others_along(call, failing):
    def function(control_plane):
        control_plane.allgather(None)
        if control_plane.process_index == failing:
            raise UserError("the disk is full.")
        return control_plane.allgather(None)

    answers = [call(index, 3, function) for index in range(3)]
    for index, answer in enumerate(answers):
        with pytest.raises(UserError) as error:
            answer.result()
        assert error.value.exit_code == 2
        if index != failing:
            assert str(error.value) == f"process {failing} on {HOST} stopped: the disk is full; this one stops too."


@pytest.mark.parametrize("held_up", [0, 1])
def test_one_that_is_held_up_is_ended(call, held_up):
    """In a collective no Python runs that could raise anything."""
    ended, go_on = [], threading.Event()

    def function(control_plane):
        control_plane.allgather(None)
        if control_plane.process_index != held_up:
            raise ValueError("a fault\nof several lines")
        go_on.wait(LONG_SECS)

    stuck = call(held_up, 2, function, ended=ended)
    other = call(1 - held_up, 2, function)
    with pytest.raises(ValueError):
        other.result()
    while len(ended) < 2:
        assert not stuck.done()
    go_on.set()
    stuck.result()
    assert ended == [f"process {1 - held_up} on {HOST} stopped: ValueError: a fault; this one stops too.", 70]


def test_an_error_that_the_loss_explains_becomes_the_loss(call):
    def function(control_plane):
        control_plane.allgather(None)
        if control_plane.process_index == 1:
            raise UserError("it went.")
        with control_plane.explain_failures():
            raise RuntimeError("Gloo all-reduce failed: connection closed by peer")

    answers = [call(index, 2, function) for index in range(2)]
    with pytest.raises(ProcessLost, match=r"process 1 on .* stopped: it went; this one stops too"):
        answers[0].result()


def test_a_process_that_dies_is_gone(call, address):
    def function(control_plane):
        control_plane.allgather(None)
        if control_plane.process_index == 1:
            control_plane._left.set()  # stands for a dead process: its connection closes without a message
            control_plane._socket.shutdown(socket.SHUT_RDWR)
            return None
        return control_plane.allgather(None)

    answers = [call(index, 3, function) for index in range(3)]
    for index in (0, 2):
        with pytest.raises(ProcessLost, match=f"process 1 on {HOST} is gone; this one stops too") as loss:
            answers[index].result()
        assert loss.value.exit_code == 70


def test_when_process_0_dies_the_others_hear_it(call):
    def function(control_plane):
        control_plane.allgather(None)
        if control_plane.is_main_process:
            for connection in list(control_plane._server._members.values()):
                connection.socket.shutdown(socket.SHUT_RDWR)
            return None
        return control_plane.allgather(None)

    answers = [call(index, 2, function) for index in range(2)]
    with pytest.raises(ProcessLost, match=f"process 0 on {HOST} is gone"):
        answers[1].result()


def test_processes_that_leave_with_exit_code_0_do_not_end_the_run(call):
    def function(control_plane):
        control_plane.allgather(None)
        if control_plane.process_index == 1:
            return "left"
        threading.Event().wait(0.5)
        return "stayed"

    ended = []
    answers = [call(index, 2, function, ended=ended) for index in range(2)]
    assert [answer.result() for answer in answers] == ["stayed", "left"]
    assert ended == []


def test_one_that_goes_before_all_are_there_is_not_counted(call, address):
    """A launcher may start it once more; without it nobody goes on."""
    first = call(0, 3)
    early, _ = answered(lambda: call_control_server(address, 1, 3, TOKEN, time.monotonic() + LONG_SECS), first)
    early.close()
    third = call(2, 3)
    threading.Event().wait(0.3)
    assert not first.done() and not third.done()
    second = call(1, 3)
    assert first.result() == second.result() == third.result() == [HOST] * 3
