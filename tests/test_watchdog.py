"""The watchdog with a clock of its own: what is progress, how long each phase may take, what it says and does."""

import threading

import pytest

from jaxdp.watchdog import (
    FLOOR_SECS,
    MEDIAN_MULTIPLE,
    PHASE_MULTIPLE,
    PHASE_SECS,
    TICK_SECS,
    TRAINING,
    WARMUP_STEPS,
    Watchdog,
    max_limit_secs,
)


class Watched:
    """A watchdog whose thread is this test: `wait` lets seconds pass in ticks of one."""

    def __init__(self, secs, tmp_path):
        self.now, self.ended = 1000.0, []
        self.log = tmp_path / "process_0.log"
        self.watchdog = Watchdog(secs, self.log, clock=lambda: self.now, end=self.ended.append)

    def wait(self, secs):
        """Returns whether the process would have been ended by then."""
        for _ in range(round(secs)):
            self.now += 1.0
            self.watchdog.tick()
            if self.ended:
                return True
        return False


@pytest.fixture
def watched(tmp_path):
    return lambda secs: Watched(secs, tmp_path)


def steps(watched, count, secs):
    for step in range(count):
        watched.watchdog.step_finished(step + 1, secs)


def test_a_step_that_takes_longer_than_the_set_limit_ends_the_process(watched, capfd):
    run = watched(30.0)
    with run.watchdog.phase(TRAINING):
        steps(run, 1, 1.0)
        for _ in range(5):
            assert not run.wait(30)
            run.watchdog.step_finished(2, 30.0)
        assert run.wait(33)
    assert run.ended == [70]


def test_the_first_step_has_the_limit_of_a_phase(watched, capfd):
    run = watched(30.0)
    with run.watchdog.phase(TRAINING):
        assert not run.wait(PHASE_MULTIPLE * 30)
        assert run.wait(2)


@pytest.mark.parametrize(
    ("step_secs", "limit"),
    [(0.01, FLOOR_SECS), (40.0, MEDIAN_MULTIPLE * 40), (3000.0, PHASE_SECS)],
)
def test_unset_the_limit_is_learned_from_the_median(watched, step_secs, limit):
    run = watched(None)
    with run.watchdog.phase(TRAINING):
        assert run.watchdog.limit_secs() == PHASE_SECS
        steps(run, WARMUP_STEPS - 1, 900.0)  # compiling and tuning: slow, and too few to learn from
        assert run.watchdog.limit_secs() == PHASE_SECS
        steps(run, WARMUP_STEPS, step_secs)
        assert run.watchdog.limit_secs() == limit


def test_other_phases_have_longer_limits_and_the_innermost_counts(watched):
    run = watched(30.0)
    steps(run, 1, 1.0)
    with run.watchdog.phase(TRAINING):
        with run.watchdog.phase("evaluating"):
            assert run.watchdog.limit_secs() == 300.0
            with run.watchdog.phase("preparing", patience=2.0):
                assert run.watchdog.limit_secs() == 600.0
            assert run.watchdog.limit_secs() == 300.0
        assert run.watchdog.limit_secs() == 30.0
    assert run.watchdog.limit_secs() == 300.0


def test_entering_leaving_and_beats_are_progress(watched):
    run = watched(30.0)
    steps(run, 1, 1.0)
    with run.watchdog.phase(TRAINING):
        assert not run.wait(29)
        with run.watchdog.phase("evaluating"):
            assert not run.wait(299)
            run.watchdog.beat()
            assert not run.wait(299)
        assert not run.wait(29)


def test_a_failure_leaves_the_phase(watched):
    run = watched(30.0)
    with pytest.raises(RuntimeError), run.watchdog.phase("evaluating"), run.watchdog.phase("saving"):
        raise RuntimeError
    assert run.watchdog.limit_secs() == 300.0
    with run.watchdog.phase(TRAINING):
        steps(run, 1, 1.0)
        assert run.watchdog.limit_secs() == 30.0


def test_time_in_which_the_whole_process_stood_still_does_not_count(watched, capfd):
    run = watched(30.0)
    with run.watchdog.phase(TRAINING):
        steps(run, 1, 1.0)
        run.watchdog.tick()
        for _ in range(10):  # Ctrl-Z for an hour, ten times
            run.now += 3600.0
            run.watchdog.tick()
            assert run.ended == []
        assert run.wait(30 - 10 * 2 * TICK_SECS + 1)


def test_it_says_what_hangs_since_when_and_where_every_thread_is(watched, capfd):
    def hang_here(release):
        release.wait()

    release = threading.Event()
    hanging = threading.Thread(target=hang_here, args=(release,), name="the-one-that-hangs")
    hanging.start()
    run = watched(30.0)
    with run.watchdog.phase(TRAINING):
        steps(run, 7, 1.0)
        with run.watchdog.phase("saving a checkpoint"):
            assert run.wait(302)
    release.set()
    hanging.join()
    for text in (capfd.readouterr().err, run.log.read_text()):
        assert "jaxdp: watchdog: no progress while saving a checkpoint since 20" in text
        assert ", for 301 s (limit 300 s); the last finished step is 7. Ending with exit code 70: " in text
        assert "raise parallel.watchdog_secs, or set it to 0 (off)" in text
        assert "the-one-that-hangs" in text and "in hang_here" in text and "in wait" in text
        assert f"{hanging.ident:#018x} the-one-that-hangs" in text and f"Thread {hanging.ident:#018x}" in text


def test_a_log_that_cannot_be_written_does_not_keep_the_process(watched, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    run = watched(30.0)
    run.watchdog._log = tmp_path / "gone" / "process_0.log"
    assert run.wait(302)
    assert "no step was finished" in capfd.readouterr().err
    assert run.ended == [70]


def test_the_log_of_another_run_at_its_path_is_left_alone(tmp_path):
    ended, log = threading.Event(), tmp_path / "process_0.log"
    log.write_text("")
    watchdog = Watchdog(30.0, log, end=lambda code: ended.set())
    with watchdog:
        watchdog._report()
        assert "no progress while" in log.read_text()
        log.rename(tmp_path / "of_the_run_that_hangs.log")
        log.write_text("of another run")
        watchdog._report()
    watchdog._thread.join()
    assert log.read_text() == "of another run"


def test_off_it_starts_no_thread_and_on_it_ends_with_the_run(tmp_path):
    def running():
        return any(thread.name == "jaxdp-watchdog" for thread in threading.enumerate())

    with Watchdog(0, tmp_path / "log") as watchdog, watchdog.phase(TRAINING):
        watchdog.step_finished(1, 1.0)
        assert not running()
    with Watchdog(None, tmp_path / "log") as watchdog:
        assert running()
    watchdog._thread.join()
    assert not running()


def test_the_longest_limit_is_that_of_every_phase_after_the_processes_have_met(watched):
    assert max_limit_secs(0) == 0
    for secs in (None, 30.0):
        run = watched(secs)
        for phase in (TRAINING, "compiling"):
            with run.watchdog.phase(phase):
                assert run.watchdog.limit_secs() <= max_limit_secs(secs)


class Colleagues:
    """Other processes; one of them is at fault."""

    def __init__(self):
        self.told = []

    def culprits(self):
        return "process 1 on b does not respond"

    def leave(self, exit_code, sentence):
        self.told.append((exit_code, sentence))


def test_the_last_sentence_names_the_process_at_fault_and_the_others_are_told(tmp_path, capfd):
    run, others = Watched(30.0, tmp_path), Colleagues()
    run.watchdog = Watchdog(30.0, run.log, others, clock=lambda: run.now, end=run.ended.append)
    with run.watchdog.phase("saving a checkpoint"):
        assert run.wait(302)
    for text in (capfd.readouterr().err, run.log.read_text()):
        assert "no step was finished; process 1 on b does not respond. Ending with exit code 70" in text
    assert others.told == [(70, "no progress while saving a checkpoint for 301 s; process 1 on b does not respond")]
    assert run.ended == [70]


def test_another_process_is_told_where_this_one_is_and_its_log_gets_the_stacks(watched):
    run = watched(30.0)
    with run.watchdog.phase("saving a checkpoint"):
        run.wait(9)
        activity = run.watchdog.activity()
    assert activity[:2] == ("saving a checkpoint", 8.0) and not activity.waits
    assert activity.place.endswith("in place_of")  # as this thread asks itself
    for thread in threading.enumerate():
        if thread.name == "jaxdp-stacks":
            thread.join()
    assert "stacks of all threads" in run.log.read_text()
