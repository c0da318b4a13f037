"""A run that no longer gets better: when it stops, what it remembers, what it says."""

import math
import signal
from types import SimpleNamespace

import pytest

from jaxdp.data.prefetch import QueueState
from jaxdp.hooks.early_stopping import EarlyStopping
from jaxdp.hooks.evaluating import Evaluating
from jaxdp.hooks.every import Every
from jaxdp.hooks.preemption import EXIT_CODES
from jaxdp.trainer import Request, train

LOSSES = [5.0, 4.0, 4.5, 3.0, 3.0, 3.5, 3.1, 2.0, 1.0, 1.0]


def run(
    values,
    patience,
    metric="eval/loss",
    total_steps=100,
    first_step=0,
    history=(),
    peer=0,
    owed=-1,
    higher_is_better=False,
):
    """The real loop; evaluation number i, after every second step, measures values[i]."""
    written = []
    every = Every(2, total_steps)
    evaluating = Evaluating(
        every, lambda step: {metric: values[step // 2 - 1]}, lambda *line: written.append(line),
        SimpleNamespace(is_owed=lambda step: step == owed, record=lambda *line: None),
    )  # fmt: skip
    stopping = EarlyStopping(every, metric, patience, evaluating.last_at, history, higher_is_better=higher_is_better)
    outcome = train(
        lambda state, batch, control_word: (state + 1, {"request": max(control_word, peer)}),
        first_step, ((0, 0) for _ in range(10**6)), lambda request, _: request, [evaluating, stopping],
        first_step=first_step, total_steps=total_steps, queue=lambda: QueueState(2, 2, 0.0),
    )  # fmt: skip
    return outcome, stopping, [{"step": step, **metrics} for step, metrics in written]


def test_it_stops_after_so_many_evaluations_without_a_new_best():
    outcome, stopping, written = run(LOSSES, patience=3)
    # Step 14 is the third evaluation in a row that does not go below the 3.0 of step 8.
    # Two steps are under way by then; the better value of step 16 comes too late.
    assert [line["step"] for line in written] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert (outcome.request, outcome.step) == (Request.EARLY_STOP, 16)
    assert stopping.message == (
        "stopped early: the last 3 evaluations did not improve on eval/loss 3 of step 8 (eval.patience=3)"
    )


def test_a_metric_that_should_rise():
    outcome, stopping, _ = run(
        [0.1, 0.3, 0.2, 0.3, 0.9, 0.9], patience=2, metric="eval/accuracy", higher_is_better=True
    )
    assert (outcome.request, outcome.step) == (Request.EARLY_STOP, 10)
    assert "did not improve on eval/accuracy 0.3 of step 4" in stopping.message


def test_an_error_that_should_fall():
    outcome, stopping, _ = run([0.5, 0.3, 0.4, 0.6, 0.1, 0.1], patience=2, metric="eval/calibration_error")
    assert (outcome.request, outcome.step) == (Request.EARLY_STOP, 10)
    assert "did not improve on eval/calibration_error 0.3 of step 4" in stopping.message


@pytest.mark.parametrize("patience", [0, 10])
def test_without_patience_or_with_enough_the_run_is_complete(patience):
    outcome, stopping, _ = run(LOSSES, patience=patience, total_steps=20)
    assert (outcome.request, outcome.step, stopping.is_exhausted) == (0, 20, False)


def test_what_is_not_finite_is_no_improvement():
    outcome, stopping, _ = run([math.nan, math.inf, math.nan, 1.0], patience=3)
    assert outcome.step == 8
    assert stopping.message == "stopped early: eval/loss was not finite in any of 3 evaluations"


@pytest.mark.parametrize("restored", range(0, 14, 2))
def test_a_resumed_run_stops_where_it_would_have(restored):
    _, _, written = run(LOSSES, patience=3)
    history = [{"step": 1, "train/loss": 9.0}, *(line for line in written if line["step"] <= restored)]
    outcome, stopping, again = run(LOSSES, patience=3, first_step=restored, history=history)
    assert outcome.step == 16 and "step 8" in stopping.message
    assert again == written[restored // 2 :]


@pytest.mark.parametrize("left", range(2, 16, 2))
def test_an_evaluation_that_was_left_and_is_made_first_counts(left):
    """In its middle came SIGTERM: its state is saved, and nothing of it is in metrics.jsonl."""
    _, stopping, written = run(LOSSES, patience=3)
    history = [line for line in written if line["step"] < left]
    outcome, resumed, again = run(LOSSES, patience=3, first_step=left, history=history, owed=left)
    assert (outcome.step, outcome.request, resumed.message) == (16, Request.EARLY_STOP, stopping.message)
    assert history + again == written


def test_an_evaluation_that_is_made_again_counts_once():
    """The kill came when its line was written, before the checkpoint knew of it."""
    _, _, written = run(LOSSES, patience=3)
    history = [line for line in written if line["step"] <= 12]
    outcome, _, again = run(LOSSES, patience=3, first_step=12, history=history, owed=12)
    assert outcome.step == 16 and [line["step"] for line in again] == [12, 14, 16]


def test_a_run_that_has_stopped_is_known_before_it_begins():
    _, _, written = run(LOSSES, patience=3)
    history = [*written[:6], written[6] | {"eval/loss": None}, written[7]]
    assert EarlyStopping(Every(2), "eval/loss", 3, lambda step: {}, history).is_exhausted
    assert not EarlyStopping(Every(2), "eval/loss", 4, lambda step: {}, history).is_exhausted
    assert not EarlyStopping(Every(2), "eval/loss", 3, lambda step: {}, ()).is_exhausted


def test_an_evaluation_that_was_left_does_not_count():
    stopping = EarlyStopping(Every(1), "eval/loss", 1, lambda step: {} if step == 2 else {"eval/loss": 1.0})
    for step, exhausted in ((1, False), (2, False), (3, True)):
        stopping.on_state(step, None)
        assert stopping.is_exhausted == exhausted


def test_another_process_may_be_the_one_that_remembers():
    outcome, stopping, _ = run(LOSSES, patience=3, peer=Request.EARLY_STOP)
    assert (outcome.request, outcome.step, stopping.is_exhausted) == (Request.EARLY_STOP, 2, False)


def test_requests_to_stop_are_the_signals_and_early_stopping():
    signals = set(EXIT_CODES) - {signal.SIGHUP}
    assert {request for request in Request if request.is_stop} == signals | {Request.EARLY_STOP}
    assert max(EXIT_CODES) < Request.EARLY_STOP
