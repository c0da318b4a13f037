"""A run without progress: the process that does not respond, or that the others wait for, is named."""

import threading
import time

import pytest
from test_control_plane import HOST, address, answered, call, short_waits
from tiny_processes import TOKEN

from jaxdp.activity import Activity
from jaxdp.errors import ProcessLost
from jaxdp.parallel import control_inquiry, control_plane, control_server
from jaxdp.parallel.control_handshake import call_control_server
from jaxdp.parallel.control_inquiry import Inquiry, read_activity
from jaxdp.parallel.control_messages import message

__all__ = ["address", "call", "short_waits"]

WAITS = Activity("training", 31.0, "jaxdp/trainer.py:171 in finish_pending", True)
HANGS = Activity("training", 31.2, "own.py:5 in read", False)


def concluded(activities):
    inquiry = Inquiry(range(len(activities)), 0.0)
    for process, activity in enumerate(activities):
        if activity:
            inquiry.add(process, activity)
    assert inquiry.is_complete == (None not in activities)
    return inquiry.conclusion(dict(enumerate("abc")))


def test_one_that_does_not_respond_is_named_before_those_that_do():
    for activities in ([WAITS, None, WAITS], [HANGS, None, WAITS]):
        conclusion = concluded(activities)
        assert conclusion.startswith("process 1 on b does not respond: it is stopped, or its machine")
        assert "holds up" not in conclusion  # what hangs may wait for the silent one in a way of its own


def test_one_that_does_not_wait_is_what_the_others_wait_for():
    assert concluded([WAITS, WAITS, HANGS]) == (
        "process 2 on c holds up the others: no progress while training for 31 s, at own.py:5 in read; "
        "logs/process_2.log has its stacks"
    )


def test_of_many_the_first_are_named():
    conclusion = Inquiry(range(9), 0.0).conclusion(dict.fromkeys(range(9), "a"))
    assert conclusion.startswith("process 0 on a does not respond") and conclusion.endswith("; and 5 more")


def test_where_all_wait_nobody_is_blamed():
    assert "all processes respond and wait for their devices" in concluded([WAITS, WAITS, WAITS])


@pytest.mark.parametrize(
    "wrong", [None, {}, {**WAITS._asdict(), "waits": 1}, {**WAITS._asdict(), "phase": "\x1b"}, [1, 2, 3, 4]]
)
def test_an_activity_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError):
        read_activity(wrong)
    assert read_activity(WAITS._asdict()) == WAITS


@pytest.mark.parametrize("hanging", [0, 2])
def test_a_main_thread_that_hangs_is_named_to_all(call, hanging):
    """It replies from its listening thread."""
    asked = threading.Barrier(3)

    def function(plane):
        plane.describe_by(lambda: HANGS if plane.process_index == hanging else WAITS)
        plane.allgather(None)
        asked.wait(60)
        named = plane.culprits()
        asked.wait(60)
        return named

    for answer in [call(index, 3, function) for index in range(3)]:
        assert answer.result().startswith(
            f"process {hanging} on {HOST} holds up the others: no progress while training"
        )


def test_a_stopped_process_is_named(call, address, monkeypatch):
    """Nothing reads its end of the connection, which stays open."""
    monkeypatch.setattr(control_server, "REPLY_SECS", 0.5)

    def function(plane):
        plane.describe_by(lambda: WAITS)
        return plane.culprits()

    others = [call(index, 3, function) for index in (0, 1)]
    connection, _ = answered(lambda: call_control_server(address, 2, 3, TOKEN, time.monotonic() + 60), others[0])
    with connection:
        for answer in others:
            assert answer.result().startswith(f"process 2 on {HOST} does not respond")


def test_process_0_that_does_not_respond_is_named(call, monkeypatch):
    monkeypatch.setattr(control_plane, "ANSWER_SECS", 0.5)
    monkeypatch.setattr(control_server.ControlServer, "_inquire", lambda *_: None)
    done = threading.Event()
    first = call(0, 2, lambda plane: done.wait(60))
    second = call(1, 2, lambda plane: (plane.culprits(), done.set())[0])
    assert second.result().startswith(f"process 0 on {HOST} does not respond")
    first.result()


def test_one_that_leaves_during_the_inquiry_ends_it(call):
    """The reason of the loss is what the others would have been told."""

    def function(plane):
        plane.allgather(None)
        if plane.process_index:
            plane.leave(70, "no progress while saving for 9 s")
            return None
        with pytest.raises(ProcessLost):
            plane.allgather(None)
        return plane.culprits()

    first, _ = [call(index, 2, function) for index in range(2)]
    assert first.result() == f"process 1 on {HOST} stopped: no progress while saving for 9 s"


def test_a_loss_has_the_advice_of_those_that_remain(call):
    def function(plane):
        plane.advise_by(lambda: "One can continue")
        plane.allgather(None)
        if plane.process_index:
            plane.leave(70, "it failed.")
            return None
        return plane.allgather(None)

    first, _ = [call(index, 2, function) for index in range(2)]
    with pytest.raises(ProcessLost, match=r"stopped: it failed; this one stops too\. One can continue\.$"):
        first.result()


def test_a_process_alone_has_nobody_to_ask():
    assert control_plane.ControlPlane.single_process().culprits() == ""


@pytest.mark.parametrize("line", [message("here", {"phase": 5}), message("pace", [1, 2]), message("pace", ["x"] * 4)])
def test_a_reply_that_is_none_ends_the_process_that_sent_it(call, address, line, monkeypatch):
    monkeypatch.setattr(control_inquiry, "REPLY_SECS", 60.0)

    def function(plane):
        plane.describe_by(lambda: WAITS)
        return plane.culprits() if b"here" in line else plane.allgather(None)

    first = call(0, 2, function)
    connection, lines = answered(lambda: call_control_server(address, 1, 2, TOKEN, time.monotonic() + 60), first)
    with connection:
        assert lines.read(1000, time.monotonic() + 60)[0] == "all"
        if b"here" in line:
            assert lines.read(1000, time.monotonic() + 60) == ("where", None)
        connection.sendall(line)
        expected = f"process 1 on {HOST} sent what is not of the control plane"
        if b"here" in line:
            assert first.result() == expected
        else:
            with pytest.raises(ProcessLost, match=expected):
                first.result()
