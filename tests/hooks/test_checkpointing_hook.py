"""Triggers of saves, and the items saved with a state."""

import math
from types import SimpleNamespace

import pytest

from jaxdp.checkpoint.retention import BestSoFar, Retention
from jaxdp.data.prefetch import QueueState
from jaxdp.evaluation import EvaluationInterrupted
from jaxdp.hooks import checkpointing
from jaxdp.hooks.checkpointing import Checkpointing
from jaxdp.hooks.evaluating import Evaluating
from jaxdp.hooks.every import Every
from jaxdp.trainer import Hook, Request, StepInfo, StopTraining, train


class Writer:
    """Records saves; `failure` is raised at the next check."""

    def __init__(self):
        self.saved, self.waits, self.failure = [], 0, None
        self.longest_save_secs = 0.0

    def save(self, *arguments):
        if all(arguments[0] != other[0] for other in self.saved):  # as the real one
            self.saved.append(arguments)

    def wait(self):
        self.waits += 1

    def decide(self, decision):
        return decision

    def check(self):
        if self.failure:
            raise self.failure


class Clock:
    def __init__(self):
        self.secs = 0.0

    def __call__(self):
        return self.secs


def make_hook(writer, *, every=0, last_step=None, **options):
    return Checkpointing(
        writer,
        Every(every, last_step),
        lambda step: {"step": step},
        {"seed": 0},
        **options,
    )


def run(hooks, total_steps, *, peer=None, on_dispatch=lambda step: None):
    """The real loop, with a program of steps that each agree on the largest request."""

    def program(state, batch, control_word):
        on_dispatch(state + 1)
        return state + 1, {"request": max(control_word, peer(state + 1) if peer else 0)}

    return train(
        program, 0, ((0, 0) for _ in range(10**6)), lambda request, _: request, hooks,
        first_step=0, total_steps=total_steps, queue=lambda: QueueState(2, 2, 0.0),
    )  # fmt: skip


def steps_of(writer):
    return [saved[0] for saved in writer.saved]


def test_saves_at_its_steps_and_at_the_end():
    writer = Writer()
    run([make_hook(writer, every=3)], 8)
    assert steps_of(writer) == [3, 6, 8]
    assert writer.saved[0] == (3, 3, {"step": 3}, {"seed": 0}, {})
    assert writer.waits == 1  # at the end, so that the last checkpoint counts


def test_saves_by_the_clock_once_all_have_agreed():
    writer, clock = Writer(), Clock()

    def on_dispatch(step):
        clock.secs += 10.0

    run([make_hook(writer, minutes=1.0, clock=clock)], 20, on_dispatch=on_dispatch)
    # Overdue after 60 s: step 7 carries the request, step 8 is dispatched before it is read
    # and is the one saved; then the clock starts again.
    assert steps_of(writer) == [8, 16, 20]


def test_another_process_may_be_the_one_whose_clock_is_up():
    writer = Writer()
    run([make_hook(writer)], 6, peer=lambda step: Request.SAVE if step == 3 else 0)
    assert steps_of(writer) == [4, 6]


def test_a_save_at_a_step_restarts_the_clock():
    writer, clock = Writer(), Clock()

    def on_dispatch(step):
        clock.secs += 10.0

    run([make_hook(writer, every=5, minutes=1.0, clock=clock)], 12, on_dispatch=on_dispatch)
    assert steps_of(writer) == [5, 10, 12]


def test_without_minutes_the_clock_asks_for_nothing():
    clock = Clock()
    hook = make_hook(Writer(), clock=clock)
    clock.secs = 1e9
    assert hook.request() == 0


def test_the_evaluation_of_the_same_step_is_saved_with_it():
    writer, written = Writer(), []
    evaluating = Evaluating(Every(2, 5), lambda state: {"eval/loss": 10.0 - state}, lambda *line: written.append(line))
    run([evaluating, make_hook(writer, every=1, evaluating=evaluating)], 5)
    assert [(saved[0], saved[-1]) for saved in writer.saved] == [
        (1, {}), (2, {"eval/loss": 8.0}), (3, {}), (4, {"eval/loss": 6.0}), (5, {"eval/loss": 5.0}),
    ]  # fmt: skip
    assert written == [(2, {"eval/loss": 8.0}), (4, {"eval/loss": 6.0}), (5, {"eval/loss": 5.0})]


@pytest.mark.parametrize(("every", "saved"), [(0, [2, 6, 9]), (4, [2, 4, 6, 8, 9])])
def test_an_evaluation_that_is_one_of_the_best_saves_its_state(every, saved):
    losses, writer, best = {2: 3.0, 4: 5.0, 6: 2.0, 8: math.nan, 9: 4.0}, Writer(), BestSoFar(Retention(), {})
    evaluating = Evaluating(Every(2, 9), lambda step: {"eval/loss": losses[step]}, lambda *line: None)
    options = {"evaluating": evaluating, "is_best": best.add}
    run([evaluating, make_hook(writer, every=every, last_step=9, **options)], 9)
    assert steps_of(writer) == saved
    assert [metrics for *_, metrics in writer.saved] == [{"eval/loss": losses[step]} for step in saved]


def test_an_evaluation_made_up_at_the_start_is_one_to_beat():
    writer, best = Writer(), BestSoFar(Retention(), {})
    evaluating = Evaluating(
        Every(2),
        lambda step: {"eval/loss": 1.0 + step},
        lambda *line: None,
        SimpleNamespace(is_owed=lambda step: step == 0, record=lambda *line: None),
    )
    options = {"evaluating": evaluating, "is_best": best.add}
    run([evaluating, make_hook(writer, last_step=5, **options)], 5)
    assert steps_of(writer) == [5]


def test_a_failed_save_stops_the_run_at_the_next_step():
    writer = Writer()
    hook = make_hook(writer)
    hook.on_step(StepInfo(1, {"request": 0}, 0.1, QueueState(2, 2, 0.0)))
    writer.failure = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        hook.on_step(StepInfo(2, {"request": 0}, 0.1, QueueState(2, 2, 0.0)))


def test_nothing_is_saved_where_no_step_was_made():
    class StopsAtOnce(Hook):
        def on_start(self, step, state):
            raise StopTraining(15)

    writer = Writer()
    outcome = run([make_hook(writer), StopsAtOnce()], 5)
    assert (outcome.step, outcome.request, writer.saved, writer.waits) == (0, 15, [], 1)


@pytest.mark.parametrize(
    ("longest", "remaining", "saved"), [(0.0, 0.1, [3]), (2.0, 2.5, [3]), (2.0, 1.5, []), (2.0, -1.0, [])]
)
def test_a_last_save_that_would_not_end_in_time_is_left(longest, remaining, saved, monkeypatch):
    writer, said = Writer(), []
    monkeypatch.setattr(checkpointing, "print_status", said.append)
    writer.longest_save_secs = longest
    run([make_hook(writer, preemption=SimpleNamespace(remaining_secs=lambda: remaining))], 3)
    assert (steps_of(writer), writer.waits) == (saved, 1)
    assert bool(said) != bool(saved)
    if said:
        assert said == [
            f"the state after step 3 is not saved: a save of this run takes up to 2.0 s, and {max(remaining, 0):.1f} s "
            "are left of checkpoint.grace_secs; the checkpoint before stays the last"
        ]


def test_an_evaluation_that_is_left_stops_the_run_with_its_state_saved():
    writer, written = Writer(), []

    def evaluate(state):
        raise EvaluationInterrupted(15)

    evaluating = Evaluating(Every(2), evaluate, lambda *line: written.append(line))
    outcome = run([evaluating, make_hook(writer, every=1, evaluating=evaluating)], 9)
    assert (outcome.step, outcome.request, written) == (2, 15, [])
    assert [(saved[0], saved[-1]) for saved in writer.saved] == [(1, {}), (2, {})]


@pytest.mark.parametrize(("step", "is_owed", "made"), [(0, True, [0]), (0, False, [])])
def test_an_evaluation_that_was_left_is_made_first(step, is_owed, made):
    written, recorded = [], []
    evaluating = Evaluating(
        Every(2), lambda state: {"eval/loss": 10.0 - state}, lambda *line: written.append(line),
        SimpleNamespace(is_owed=lambda step: is_owed, record=lambda *line: recorded.append(line)),
    )  # fmt: skip
    run([evaluating], 1)
    assert written == recorded == [(step, {"eval/loss": 10.0 - step}) for step in made]
