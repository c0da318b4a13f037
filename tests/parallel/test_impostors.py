"""Impostors on the control plane: a false process 0, recorded hellos, wrong and late tokens."""

import socket
import threading

import pytest
from test_control_plane import LONG_SECS, address, call, clock, end_time, servers, short_waits, stranger_at, wait_until
from test_hostile_callers import EXPECTED, OTHER_TOKEN, function, send_all, until_hung_up

from jaxdp.errors import ProcessLost, UserError
from jaxdp.parallel import control_handshake
from jaxdp.parallel import control_plane as control_plane_module
from jaxdp.parallel.control_handshake import Hello, proof_of
from jaxdp.parallel.control_messages import message
from jaxdp.parallel.run_token import VARIABLE, RunToken

__all__ = ["address", "call", "clock", "servers", "short_waits"]


class Impostor(threading.Thread):
    """Listens where process 0 should, and answers each caller with the given lines after its hello."""

    def __init__(self, address, challenge, *answers):
        super().__init__(daemon=True)
        host, port = address.split(":")
        self.listener = socket.create_server((host, int(port)))
        self.challenge, self.answers, self.heard = challenge, answers, []

    def run(self):
        while True:
            try:
                caller, _ = self.listener.accept()
            except OSError:
                return
            with caller:
                caller.settimeout(LONG_SECS)
                send_all(caller, self.challenge)
                try:
                    self.heard.append(caller.recv(4096))
                except OSError:
                    continue
                for answer in self.answers:
                    send_all(caller, answer)
                until_hung_up(caller)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.join()


@pytest.fixture
def one_call(monkeypatch, clock):
    """The time of a process is up after its first call of process 0 has failed."""
    call_once = control_plane_module.call_control_server

    def call(*arguments):
        try:
            return call_once(*arguments)
        except (OSError, ValueError):
            clock.later = 2 * LONG_SECS
            raise

    monkeypatch.setattr(control_plane_module, "call_control_server", call)
    monkeypatch.setattr(control_plane_module, "CALL_SECS", LONG_SECS)


END = message("end", {"exit_code": 3, "sentence": "\x1b[31mhaha"})


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ((message("challenge", "n"), message("welcome", "0" * 64)), "does not know the token of this run"),
        (
            (message("challenge", "n"), message("welcome", None), message("all", [1, 2])),
            "does not know the token of this run",
        ),
        ((message("challenge", "n"), END), "is not process 0 of a run"),
        ((END,), "is not process 0 of a run"),
        ((message("welcome", None), message("all", ["a", "b"])), "is not process 0 of a run"),
        ((message("challenge", 5),), "is not process 0 of a run"),
        ((b"x" * 100_000,), "a line of more than 4096 bytes"),
        ((b"[" * 4000 + b"\n",), "not a line of jaxdp's control plane"),
    ],
)
def test_an_impostor_at_the_address_is_not_believed(call, address, one_call, lines, problem):
    with Impostor(address, *lines), pytest.raises(ProcessLost, match=f"did not answer within .*{problem}") as loss:
        call(1, 2).result()
    assert loss.value.exit_code == 70 and "haha" not in str(loss.value)


@pytest.mark.parametrize("line", [b"", message("challenge", "n")])
def test_an_idle_impostor_at_the_address_does_not_hold_a_process(call, address, one_call, line, monkeypatch):
    monkeypatch.setattr(control_handshake, "_TICK_SECS", 0.1)
    monkeypatch.setattr(control_plane_module, "CALL_SECS", 0.5)
    with Impostor(address, line), pytest.raises(ProcessLost, match=r"did not answer within .*timed out"):
        call(1, 2).result()


def test_a_recorded_hello_is_of_no_use(call, address, clock, monkeypatch):
    """Neither the proof that a process gives, nor the one that process 0 gives."""
    monkeypatch.setattr(control_plane_module, "CALL_SECS", 0.5)
    with Impostor(address, message("challenge", "n")) as impostor, pytest.raises(ProcessLost):
        second = call(1, 2)
        wait_until(lambda: any(impostor.heard), second)
        clock.later = 2 * LONG_SECS
        second.result()
    monkeypatch.setattr(control_plane_module, "CALL_SECS", LONG_SECS)
    clock.later = 0.0
    recorded = next(filter(None, impostor.heard))
    assert recorded.startswith(b'["hello"')
    first = call(0, 2, function)
    with stranger_at(address, first) as stranger:
        send_all(stranger, recorded)
        assert b"refused" in until_hung_up(stranger)
        assert call(1, 2, function).result() == first.result() == EXPECTED


def test_a_proof_is_of_all_that_is_said():
    said = Hello(1, 2, "a", "n", "")
    proofs = {
        proof_of(token, label, challenge, given)
        for token in (b"t", b"u")
        for label in ("process", "control server")
        for challenge in ("c", "d")
        for given in (
            said,
            *(
                said._replace(**{name: value})
                for name, value in [("process", 0), ("of", 3), ("host", "b"), ("nonce", "o")]
            ),
        )
    }
    assert len(proofs) == 2 * 2 * 2 * 5
    assert proof_of(b"t", "process", "c", said) == proof_of(b"t", "process", "c", said._replace(proof="x"))


def test_a_process_with_another_token_gets_the_fix(call, servers, monkeypatch):
    monkeypatch.setattr(control_plane_module, "TOKEN_SECS", 0.3)
    first = call(0, 2)
    with pytest.raises(
        UserError,
        match=r"process 1 of 2 on .* is refused by process 0 .* with the token of JAXDP_RUN_TOKEN: .* same secret",
    ) as refusal:
        call(1, 2, token=OTHER_TOKEN).result()
    assert refusal.value.exit_code == 2
    end_time(servers, first, lambda server: server._num_refusals)
    with pytest.raises(
        ProcessLost, match=r"process 1 of 2 did not come .* connections? (was|were) refused, .*it has another token"
    ):
        first.result()


@pytest.mark.parametrize("before", [None, b"s" * 32, b"half"])
def test_a_token_that_is_seen_late_is_read_again(call, tmp_path, before):
    """As on a shared file system: process 1 still sees the one of an earlier start, or none."""
    path = tmp_path / ".run_token"
    if before is not None:
        path.write_bytes(before)
    second = call(1, 2, function, token=RunToken(path, {}))
    own = RunToken(tmp_path / "own", {})
    own.write()
    first = call(0, 2, function, token=own)
    threading.Event().wait(0.5)
    assert not second.done() and not first.done()
    path.write_bytes(own.read())
    assert first.result() == second.result() == EXPECTED


def test_a_token_that_never_appears_is_reported(call, tmp_path, servers, monkeypatch):
    monkeypatch.setattr(control_plane_module, "TOKEN_SECS", 0.3)
    first = call(0, 2)
    token = RunToken(tmp_path / ".run_token", {})
    with pytest.raises(
        UserError, match=r"\.run_token cannot be read \(No such file or directory\); --workdir must be one directory"
    ) as refusal:
        call(1, 2, token=token).result()
    assert f"or set {VARIABLE} to the same secret" in str(refusal.value)
    end_time(servers, first, lambda server: True)
    with pytest.raises(ProcessLost):
        first.result()


@pytest.mark.parametrize("is_written", [True, False])
def test_a_refused_token_is_reported_after_process_0_has_exited(
    call, tmp_path, servers, clock, is_written, monkeypatch
):
    """Its port is closed by then: the last call finds nobody there."""
    refused, call_once = threading.Event(), control_plane_module.call_control_server

    def call_and_tell(*arguments):
        try:
            return call_once(*arguments)
        except control_handshake.TokenRefused:
            refused.set()
            raise

    monkeypatch.setattr(control_plane_module, "call_control_server", call_and_tell)
    first = call(0, 2)
    second = call(1, 2, token=OTHER_TOKEN if is_written else RunToken(tmp_path / ".run_token", {}))
    wait_until(refused.is_set, second)
    end_time(servers, first, lambda server: 0 in server._members)
    with pytest.raises(ProcessLost):
        first.result()
    clock.later = 2 * LONG_SECS
    with pytest.raises(
        UserError, match=r"process 1 of 2 on .* is refused by process 0 .* with the token of"
    ) as refusal:
        second.result()
    assert refusal.value.exit_code == 2


def test_nobody_there_is_not_blamed_on_the_token(call):
    with pytest.raises(ProcessLost, match=r"did not answer within 0\.5 s"):
        call(1, 2, timeout_secs=0.5, token=OTHER_TOKEN).result()
