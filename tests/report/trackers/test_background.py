"""Delivery in a thread: order, failures, bounds, and the steps that a resume repeats."""

import threading
import time

import pytest

from jaxdp.report.trackers import background as module
from jaxdp.report.trackers.background import Background, Waits, drawn_once
from jaxdp.report.trackers.run_record import RunRecord
from jaxdp.report.trackers.tracker import Tracker


def until(is_true):
    """Waits for the thread; the limit is that of a machine at a standstill."""
    for _ in range(60_000):
        if is_true():
            return
        time.sleep(0.001)
    raise AssertionError("the thread did nothing")


QUICK = Waits(batch=0.0, first=0.001, longest=0.002, close=30.0, closing=0.001)


class Recording(Tracker):
    """A tracker whose calls fail as often as `failures` says, or which waits for `gate`."""

    def __init__(self, failures=0, gate=None):
        self.failures, self.gate = failures, gate
        self.calls, self.pending, self.is_closed, self.num_tries = [], [], False, 0

    def write(self, step, values):
        if self.gate:
            self.gate.wait(60)
        self.num_tries += 1
        if self.failures:
            self.failures -= 1
            raise ConnectionError("refused by https://ann:secretpw@host with key fakekey0123")
        self.pending.append((step, values))

    def write_samples(self, step, samples):
        self.pending.append((step, samples))

    def write_figure(self, step, name, png):
        self.pending.append((step, name, png))

    def flush(self):
        self.calls += self.pending
        self.pending = []

    def close(self):
        self.is_closed = True


def test_everything_arrives_in_order_and_off_the_callers_thread():
    tracker, drawn = Recording(), []
    delivery = Background("fake", lambda: tracker, waits=QUICK)

    def draw():
        drawn.append(threading.current_thread())
        return b"png"

    for step in range(1, 101):
        delivery.write(step, {"train/loss": 1 / step, "data/text": "https://ann:secretpw@host/"})
    delivery.write_samples(100, [{"output": "a"}])
    delivery.write_figure(100, "eval/report", draw)
    delivery.close()
    assert [call[0] for call in tracker.calls] == [*range(1, 101), 100, 100]
    assert tracker.calls[1] == (2, {"train/loss": 0.5, "data/text": "https://ann:***@host/"})
    assert tracker.calls[-2:] == [(100, [{"output": "a"}]), (100, "eval/report", b"png")]
    assert tracker.is_closed and drawn and threading.main_thread() not in drawn


def test_a_picture_for_several_trackers_is_drawn_once():
    calls = []
    picture = drawn_once(lambda: calls.append(1) or b"png")
    assert [picture(), picture()] == [b"png"] * 2 and calls == [1]


def test_a_failure_is_said_once_without_secrets_and_the_call_repeated(monkeypatch, capsys):
    monkeypatch.setenv("FAKE_API_KEY", "fakekey0123")
    tracker = Recording(failures=3)
    delivery = Background("fake", lambda: tracker, waits=QUICK)
    for step in (1, 2):
        delivery.write(step, {"train/loss": 1.0})
    until(lambda: len(tracker.calls) == 2)
    delivery.close()
    assert [step for step, _ in tracker.calls] == [1, 2]
    err = capsys.readouterr().err
    assert err.count("fake cannot be written to (ConnectionError: refused by https://ann:***@host with key ***)") == 1
    assert err.count("\n") == 1 and "training continues" in err


def test_a_tracker_that_does_not_open_is_tried_again():
    tracker, tries = Recording(), []

    def open_tracker():
        tries.append(1)
        if len(tries) < 4:
            raise OSError("unreachable")
        return tracker

    delivery = Background("fake", open_tracker, waits=QUICK)
    delivery.write(1, {"train/loss": 1.0})
    until(lambda: tracker.calls)
    delivery.close()
    assert len(tries) == 4 and len(tracker.calls) == 1


def test_a_line_that_never_succeeds_is_given_up_and_counted(capsys):
    tracker = Recording(failures=module.MAX_ATTEMPTS)
    delivery = Background("fake", lambda: tracker, waits=QUICK)
    delivery.write(1, {"train/loss": 1.0})
    delivery.write(2, {"train/loss": 1.0})
    until(lambda: tracker.calls)
    delivery.close()
    assert [step for step, _ in tracker.calls] == [2] and tracker.num_tries == module.MAX_ATTEMPTS + 1
    assert "fake: 1 lines of metrics were not sent" in capsys.readouterr().err


def test_a_hanging_tracker_delays_neither_lines_nor_the_end_and_the_queue_is_bounded(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "MAX_WAITING", 50)
    gate = threading.Event()
    tracker = Recording(gate=gate)
    delivery = Background("fake", lambda: tracker, None, tmp_path / "metrics.jsonl", QUICK._replace(close=0.01))
    for step in range(1, 1001):
        delivery.write(step, {"train/loss": 1.0})
    assert len(delivery._waiting) == 50
    delivery.close()
    assert f"fake: 1,000 lines of metrics were not sent; {tmp_path / 'metrics.jsonl'} has every line" in (
        " ".join(capsys.readouterr().err.split())
    )
    gate.set()
    delivery._thread.join(30)
    assert not delivery._thread.is_alive()


def test_an_unreachable_tracker_ends_with_the_run():
    def open_tracker():
        raise OSError("unreachable")

    delivery = Background("fake", open_tracker, waits=QUICK._replace(first=1000.0, longest=1000.0))
    delivery.write(1, {"train/loss": 1.0})
    delivery.close()
    assert not delivery._thread.is_alive()


def restart(directory, first_step, lines, config=(("seed", 1),)):
    record = RunRecord(directory, dict(config), first_step)
    tracker = Recording()
    delivery = Background("fake", lambda: tracker, record, waits=QUICK)
    for step, values in lines:
        delivery.write(step, values)
    delivery.close()
    return record.run_id, tracker.calls


def test_a_resume_keeps_the_run_and_sends_no_point_twice(tmp_path):
    train = [(step, {"train/loss": 1.0, "perf/mfu": 0.5}) for step in range(1, 11)]
    first_id, calls = restart(tmp_path, 0, train[:7])
    assert calls == train[:7]
    # Killed after the training metrics of step 7 and before its evaluation; restored from step 5.
    second_id, calls = restart(tmp_path, 5, [*train[5:7], (7, {"eval/loss": 2.0}), *train[7:]])
    assert second_id == first_id and calls == [(7, {"eval/loss": 2.0}), *train[7:]]
    # Hooks may write to a group twice at the same step of one start.
    _, calls = restart(tmp_path, 10, [(11, {"train/a": 1}), (11, {"train/b": 2})])
    assert calls == [(11, {"train/a": 1}), (11, {"train/b": 2})]


def test_what_a_killed_service_had_not_stored_is_sent_again(tmp_path):
    class Holding(Recording):
        holds_last_step = True

    record = RunRecord(tmp_path, {"seed": 1}, 0)
    delivery = Background("fake", Holding, record, waits=QUICK)
    for step in (1, 2, 3):
        delivery.write(step, {"train/loss": 1.0})
    delivery.write(3, {"eval/loss": 1.0})
    until(lambda: not delivery._waiting and (tmp_path / "sent_steps.json").read_text().count('"train": 2'))
    # As after a kill: the file is read before the run is closed.
    before = (tmp_path / "sent_steps.json").read_text()
    delivery.close()
    assert '"train": 3, "eval": 3' in (tmp_path / "sent_steps.json").read_text()
    (tmp_path / "sent_steps.json").write_text(before)
    again = [(step, {"train/loss": 1.0}) for step in (2, 3)] + [(3, {"eval/loss": 1.0})]
    assert restart(tmp_path, 1, again)[1] == again[1:]


def test_samples_and_figures_are_not_sent_twice(tmp_path):
    for first_step, steps in ((0, (5, 10)), (3, (5, 10, 15))):
        record, tracker = RunRecord(tmp_path, {"seed": 1}, first_step), Recording()
        delivery = Background("fake", lambda tracker=tracker: tracker, record, waits=QUICK)
        for step in steps:
            delivery.write_samples(step, [{"output": "a"}])
            delivery.write_figure(step, "eval/report", lambda: b"png")
            delivery.write(step, {"eval/loss": 1.0})
        delivery.close()
        assert [call[0] for call in tracker.calls] == ([5, 5, 5, 10, 10, 10] if first_step == 0 else [15, 15, 15])


def test_another_training_configuration_from_step_zero_is_another_run(tmp_path):
    line = [(1, {"train/loss": 1.0})]
    first_id, _ = restart(tmp_path, 0, line)
    assert restart(tmp_path, 0, line, {"seed": 1, "log": {"every_steps": 3}}) == (first_id, [])
    other_id, calls = restart(tmp_path, 0, line, {"seed": 2})
    assert other_id != first_id and calls == line


def test_the_id_of_an_older_version_is_kept(tmp_path):
    (tmp_path / "run_id").write_text("0123\n")
    run_id, calls = restart(tmp_path, 5, [(6, {"train/loss": 1.0})])
    assert run_id == "0123" and len(calls) == 1
    assert restart(tmp_path, 5, [(6, {"train/loss": 1.0})]) == ("0123", [])


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"steps": {"train": "x"}}', '{"steps": 3}'])
def test_a_damaged_record_of_steps_counts_as_none(tmp_path, damage):
    first_id, _ = restart(tmp_path, 0, [(1, {"train/loss": 1.0})])
    (tmp_path / "sent_steps.json").write_text(damage)
    assert restart(tmp_path, 1, [(2, {"train/loss": 1.0})]) == (first_id, [(2, {"train/loss": 1.0})])


def test_steps_that_the_service_has_are_not_sent(tmp_path):
    class Service(Recording):
        def last_step(self):
            return 3

    tracker = Service()
    delivery = Background("fake", lambda: tracker, waits=QUICK)
    for step in range(1, 6):
        delivery.write(step, {"train/loss": 1.0})
    delivery.close()
    assert [step for step, _ in tracker.calls] == [4, 5]
