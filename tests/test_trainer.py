"""The loop around a program that only records what is asked of it."""

import numpy as np
import pytest

from jaxdp.data.prefetch import QueueState
from jaxdp.trainer import AbortTraining, Hook, Request, train

STOP = Request.TERMINATE
READY = QueueState(2, 2, 0.0)


class State:
    """A state whose buffers the next step takes over."""

    def __init__(self, step):
        self.step, self.is_deleted = step, False


class LateRequest:
    """The agreed request of a step; records the moment it is read."""

    def __init__(self, events, step, request):
        self._events, self._step, self._request = events, step, request

    def __array__(self, dtype=None, copy=None):
        self._events.append(f"read {self._step}")
        return np.array(self._request)


class Recorder(Hook):
    """Records every call, and asks for what the test wants."""

    def __init__(self, events, *, requests=None, due=(), name=""):
        self.events, self.requests, self.due, self.name = events, requests or {}, due, name
        self.asked = 0

    def request(self):
        self.asked += 1
        return self.requests.get(self.asked, 0)

    def on_step(self, info):
        self.events.append(f"{self.name}on_step {info.step}")

    def wants_state(self, step):
        return step in self.due

    def on_state(self, step, state):
        assert (state.step, state.is_deleted) == (step, False)
        self.events.append(f"{self.name}on_state {step}")

    def on_stop(self, step, state):
        assert (state.step, state.is_deleted) == (step, False)
        self.events.append(f"{self.name}on_stop {step}")


def run(hooks, events, *, first_step=0, total_steps=4, seen=None):
    """Trains with the recording program; batches are numbers, control words (request, hash)."""

    def program(state, batch, control_word):
        assert batch == state.step
        assert not state.is_deleted
        state.is_deleted = True
        events.append(f"dispatch {state.step + 1}")
        if seen is not None:
            seen.append(control_word)
        metrics = {"request": LateRequest(events, state.step + 1, control_word[0])}
        return State(state.step + 1), metrics

    return train(
        program,
        State(first_step),
        ((step, 1000 + step) for step in range(first_step, 10**6)),
        lambda request, batch_hash: (request, batch_hash),
        hooks,
        first_step=first_step,
        total_steps=total_steps,
        queue=lambda: READY,
    )


def test_each_step_is_read_once_and_after_the_next_is_dispatched():
    events = []
    outcome = run([Recorder(events)], events)
    assert events == [
        "dispatch 1",
        "dispatch 2", "read 1", "on_step 1",
        "dispatch 3", "read 2", "on_step 2",
        "dispatch 4", "read 3", "on_step 3",
        "read 4", "on_step 4",
        "on_stop 4",
    ]  # fmt: skip
    assert (outcome.step, outcome.state.step, outcome.request) == (4, 4, 0)


def test_a_due_state_is_seen_with_its_metrics_before_the_next_step_takes_it():
    events = []
    run([Recorder(events, due=(2, 4))], events)
    assert events == [
        "dispatch 1",
        "dispatch 2", "read 1", "on_step 1", "read 2", "on_step 2", "on_state 2",
        "dispatch 3",
        "dispatch 4", "read 3", "on_step 3", "read 4", "on_step 4", "on_state 4",
        "on_stop 4",
    ]  # fmt: skip


def test_hooks_are_called_in_their_order_and_only_the_due_ones_get_the_state():
    events = []
    hooks = [Recorder(events, name="a ", due=(1,)), Recorder(events, name="b "), Recorder(events, name="c ", due=(1,))]
    run(hooks, events, total_steps=1)
    assert events == [
        "dispatch 1", "read 1", "a on_step 1", "b on_step 1", "c on_step 1",
        "a on_state 1", "c on_state 1",
        "a on_stop 1", "b on_stop 1", "c on_stop 1",
    ]  # fmt: skip


def test_a_request_to_stop_ends_the_run_one_step_after_all_have_heard_of_it():
    events = []
    outcome = run([Recorder(events, requests={2: STOP})], events, total_steps=100)
    # Step 2 carries the request; step 3 was dispatched before it was read.
    assert events[-4:] == ["on_step 2", "read 3", "on_step 3", "on_stop 3"]
    assert (outcome.step, outcome.state.step, outcome.request) == (3, 3, STOP)


def test_the_request_of_the_last_step_is_not_lost():
    outcome = run([Recorder([], requests={4: STOP})], [], total_steps=4)
    assert (outcome.step, outcome.request) == (4, STOP)


def test_a_request_to_save_does_not_stop():
    seen = []
    outcome = run([Recorder([], requests={1: Request.SAVE, 2: Request.SAVE})], [], seen=seen)
    assert (outcome.step, outcome.request) == (4, 0)
    assert [request for request, _ in seen] == [Request.SAVE, Request.SAVE, 0, 0]


def test_the_most_urgent_request_is_sent_with_the_hash_of_the_batch():
    seen = []
    hooks = [Recorder([], requests={1: Request.SAVE}), Recorder([], requests={1: 2})]
    run(hooks, [], total_steps=2, seen=seen)
    assert seen == [(2, 1000), (0, 1001)]


def test_a_run_may_begin_late_or_be_complete_already():
    events = []
    assert run([Recorder(events)], events, first_step=2, total_steps=4).step == 4
    assert [event for event in events if event.startswith("on_step")] == ["on_step 3", "on_step 4"]
    events.clear()
    assert run([Recorder(events)], events, first_step=4, total_steps=4).step == 4
    assert events == ["on_stop 4"]


def test_a_run_without_hooks():
    assert run([], []).step == 4


def test_a_hook_that_raises_ends_the_run_there():
    class Failing(Hook):
        def on_step(self, info):
            raise RuntimeError("no")

    events = []
    with pytest.raises(RuntimeError, match="no"):
        run([Failing()], events)
    assert events == ["dispatch 1", "dispatch 2", "read 1"]


class Clock:
    """Time that passes only where the test says so."""

    def __init__(self):
        self.now = 100.0

    def pass_time(self, secs):
        self.now += secs


def test_step_secs_include_data_wait_but_not_hooks(monkeypatch):
    clock, queue, infos = Clock(), [], []
    monkeypatch.setattr("jaxdp.trainer.time.perf_counter", lambda: clock.now)

    def batches():
        while True:
            clock.pass_time(2.0)
            queue.append(QueueState(3, len(queue) % 2, 2.0))
            yield 0, 0

    def program(state, batch, control_word):
        clock.pass_time(1.0)
        return State(state.step + 1), {"request": 0}

    class Evaluation(Hook):
        def on_step(self, info):
            infos.append(info)

        def wants_state(self, step):
            return step == 2

        def on_state(self, step, state):
            clock.pass_time(50.0)

    train(
        program, State(0), batches(), lambda request, batch_hash: None, [Evaluation()],
        first_step=0, total_steps=4, queue=lambda: queue[-1],
    )  # fmt: skip
    assert [info.step for info in infos] == [1, 2, 3, 4]
    assert [info.queue for info in infos] == queue  # of its own batch, not of the one dispatched since
    assert [state.num_ready for state in queue] == [0, 1, 0, 1]
    # Four rounds of 3 s; steps 2 and 4 were read at once after steps 1 and 3.
    assert [info.step_secs for info in infos] == [6.0, 0.0, 6.0, 0.0]


def test_on_dispatch_runs_before_the_metrics_are_read():
    class Following(Recorder):
        def on_dispatch(self, step, state):
            assert (state.step, state.is_deleted) == (step, False)
            self.events.append(f"on_dispatch {step}")

    events = []
    run([Following(events, due=(2,))], events, total_steps=3)
    assert events == [
        "dispatch 1", "on_dispatch 1",
        "dispatch 2", "read 1", "on_step 1", "on_dispatch 2", "read 2", "on_step 2", "on_state 2",
        "dispatch 3", "on_dispatch 3", "read 3", "on_step 3",
        "on_stop 3",
    ]  # fmt: skip


@pytest.mark.parametrize("due", [(), (2,)])
def test_abort_skips_the_other_hooks(due):
    class GivingUp(Hook):
        def on_step(self, info):
            if info.step == 2:
                raise AbortTraining("no")

    events = []
    outcome = run([Recorder(events, due=due), GivingUp()], events)
    assert str(outcome.aborted) == "no" and outcome.aborted.__traceback__ is None
    assert not any(event.startswith(("on_state", "on_stop", "on_step 3")) for event in events)
    assert outcome.step == outcome.state.step == (2 if due else 3) and not outcome.state.is_deleted


def test_abort_after_the_last_step():
    class GivingUp(Hook):
        def on_step(self, info):
            if info.step == 4:
                raise AbortTraining("no")

    events = []
    outcome = run([Recorder(events), GivingUp()], events)
    assert outcome.aborted and outcome.step == 4
    assert "on_stop 4" not in events
