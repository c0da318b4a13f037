"""Goodput against timelines whose seconds were added up by hand, and against the ledger of a simulated run."""

import ast
import dataclasses
import random
import re
from pathlib import Path

import pytest

from jaxdp.report.goodput import BUCKETS, PHASES, account, goodput
from jaxdp.report.timeline import Timeline
from jaxdp.watchdog import OUTSIDE, TRAINING

JAXDP = Path(__file__).parents[2] / "jaxdp"


def start(time, begin):
    return {"event": "start", "time": time, "begin": begin}


def phase(time, name, step=0, wait=0.0, other=0.0):
    return {"event": "phase", "time": time, "phase": name, "step": step, "wait": wait, "other": other}


def secs_of(found):
    return {bucket: secs for bucket, secs in found.buckets.items() if secs}


FIRST = [
    start(103.0, 100.0),
    phase(104.0, "preparing the data"),
    phase(110.0, OUTSIDE),
    phase(110.5, "compiling"),
    phase(130.5, OUTSIDE),
    phase(131.0, "restoring"),
    {"event": "resume", "time": 132.0, "step": 0},
    phase(132.5, OUTSIDE),
    phase(133.0, TRAINING),
    phase(143.0, "evaluating", 10, wait=2.0),
    phase(144.0, TRAINING, 10, wait=2.0),
    phase(144.0, "saving a checkpoint", 10, wait=2.0),
    phase(146.0, TRAINING, 10, wait=2.0),
]
"""A start whose checkpoint of step 10 is saved after 46 s: 7.0 s of start-up, 6 of preparation, 20 of compilation, 8 + 2 of 10 steps."""

KILLED = [*FIRST, {"event": "heartbeat", "start": 100.0, "time": 151.0, "step": 14, "wait": 2.5, "other": 0.0}]
"""The same, killed 5 s and 4 steps after the save."""

AGAIN = [
    *KILLED,
    start(171.0, 161.0),
    phase(172.0, "compiling"),
    phase(175.0, "restoring"),
    {"event": "resume", "time": 178.0, "step": 10},
    phase(178.0, OUTSIDE, 10),
    phase(179.0, TRAINING, 10),
    phase(189.0, "saving a checkpoint", 20, wait=1.0, other=0.5),
    phase(190.0, TRAINING, 20, wait=1.0, other=0.5),
    phase(190.25, OUTSIDE, 20, wait=1.0, other=0.5),
    {"event": "end", "time": 191.0, "complete": True, "step": 20},
]
"""The same, started again after 10 s, and finished."""


def test_a_start_without_faults():
    found = account([*FIRST[:-1], phase(146.0, OUTSIDE, 10, wait=2.0), {"event": "end", "time": 146.5, "step": 10}])
    assert secs_of(found) == {
        "start_up": 7.0, "data_preparation": 6.0, "compilation": 20.0, "steps": 8.0, "data_wait": 2.0,
        "evaluation": 1.0, "saves": 2.0, "other": 0.5,
    }  # fmt: skip
    assert (found.num_starts, found.num_steps, found.lost_steps, found.wall_secs) == (1, 10, 0, 46.5)


def test_steps_after_the_last_checkpoint_of_a_killed_start_count_until_another_start_goes_back_behind_them():
    found = account(KILLED)
    assert (found.num_steps, found.lost_steps, found.wall_secs) == (14, 0, 51.0)
    assert found.buckets["steps"] == 8.0 + 4.5 and found.buckets["data_wait"] == 2.5


def test_a_kill_costs_the_steps_after_the_checkpoint_the_downtime_and_another_start():
    found = account(AGAIN)
    assert secs_of(found) == {
        "start_up": 7.0 + 11.0 + 1.0, "data_preparation": 6.0, "compilation": 20.0 + 3.0, "restore": 3.0,
        "steps": 8.0 + 8.5 + 0.25, "data_wait": 2.0 + 1.0, "evaluation": 1.0, "saves": 2.0 + 1.0,
        "lost": 5.0, "downtime": 10.0, "other": 0.5 + 0.75,
    }  # fmt: skip
    assert (found.num_starts, found.num_steps, found.lost_steps, found.wall_secs) == (2, 20, 4, 91.0)
    assert sum(share for _, _, share in found.rows()) == pytest.approx(1.0)
    assert found.as_json()["goodput"] == pytest.approx(16.75 / 91.0)


def test_evaluations_and_saves_after_the_restored_step_are_lost_too():
    """The checkpoint of step 20 was damaged, so the third start restores that of step 10."""
    later = [
        start(201.0, 200.0), phase(201.0, "restoring"), {"event": "resume", "time": 202.0, "step": 10},
        phase(202.0, TRAINING, 10), {"event": "heartbeat", "start": 200.0, "time": 203.0, "step": 11},
    ]  # fmt: skip
    found = account([*AGAIN[:-1], *later])
    # Of the second start: 8.5 + 0.25 s of steps, 1 s of waiting, 0.5 s of hooks, 1 s of saving.
    assert found.buckets["lost"] == 5.0 + 11.25
    assert (found.num_steps, found.lost_steps) == (11, 14)
    assert found.buckets["saves"] == 2.0 and found.buckets["downtime"] == 10.0 + (200.0 - 190.25)


def test_a_rollback_loses_the_steps_after_the_step_that_it_restores():
    rolled_back = [
        *FIRST, phase(156.0, OUTSIDE, 20, wait=3.0), phase(156.0, "rolling back", 20, wait=3.0),
        {"event": "resume", "time": 158.0, "step": 10}, phase(159.0, OUTSIDE, 10, wait=3.0),
        phase(159.0, TRAINING, 10, wait=3.0), phase(161.0, OUTSIDE, 12, wait=3.0),
        {"event": "end", "time": 161.0, "step": 12},
    ]  # fmt: skip
    found = account(rolled_back)
    assert (found.buckets["lost"], found.lost_steps, found.num_steps) == (10.0, 10, 12)
    assert found.buckets["restore"] == 3.0 and found.buckets["steps"] == 8.0 + 2.0


def test_the_time_after_a_complete_run_is_no_downtime():
    found = account([*AGAIN, start(10_000.0, 9_999.0), {"event": "end", "time": 10_001.0, "complete": True}])
    assert found.wall_secs == 91.0 + 2.0 and found.buckets["downtime"] == 10.0


REFUSED = [
    start(195.0, 193.0),
    phase(195.5, "preparing the data"),
    phase(198.5, OUTSIDE),
    {"event": "end", "time": 199.0},
]
"""A start that is refused for another seed: 2.5 s of start-up, 3 of preparation and 0.5 of start-up."""


def test_a_refused_start_is_no_downtime():
    """As after a configuration error: the start is recorded, then 7 s pass until the next."""
    found = account([*KILLED, *REFUSED, start(207.0, 206.0), {"event": "end", "time": 208.0}])
    assert found.buckets["downtime"] == (193.0 - 151.0) + (206.0 - 199.0)
    assert found.buckets["start_up"] == 7.0 + 3.0 + 2.0 and found.buckets["data_preparation"] == 6.0 + 3.0
    assert found.num_starts == 3 and found.wall_secs == 108.0 == sum(found.buckets.values())


def test_a_refused_start_leaves_a_complete_run_complete():
    found = account([*AGAIN, *REFUSED, start(10_000.0, 9_999.0), {"event": "end", "time": 10_001.0, "complete": True}])
    assert found.buckets["downtime"] == 10.0 and found.wall_secs == 91.0 + 6.0 + 2.0


def refusal(begin, time):
    return {"event": "refused", "time": time, "begin": begin}


def test_a_start_that_is_refused_before_its_timeline_begins_is_start_up():
    """Two processes of it record that, and one more command whose configuration cannot be read."""
    beat = KILLED[-1] | {"event": "heartbeat"}  # moved into the timeline by the next start that gets so far
    events = [*FIRST, refusal(155.0, 157.0), refusal(155.5, 157.5), refusal(160.0, 160.5), beat, *AGAIN[len(KILLED) :]]
    found, without = account(events), account(AGAIN)
    assert found.buckets == without.buckets | {"start_up": 19.0 + 2.0 + 0.5, "downtime": 10.0 - 2.5}
    assert (found.num_starts, found.wall_secs) == (4, without.wall_secs)
    assert (found.num_steps, found.lost_steps) == (without.num_steps, without.lost_steps)


def test_a_command_that_is_refused_while_the_run_trains_changes_nothing():
    for place in range(len(FIRST) + 1, len(AGAIN) + 1):
        before = AGAIN[place - 1]["time"]
        if 151.0 <= before < 171.0:
            continue  # the start before is dead, and the next has not begun
        assert account([*AGAIN[:place], refusal(before - 0.01, before), *AGAIN[place:]]) == account(AGAIN)


def test_a_clock_that_was_set_back_makes_no_negative_downtime():
    found = account([*KILLED, start(51.0, 50.0), {"event": "end", "time": 52.0}])
    assert found.buckets["downtime"] == 0.0 and found.wall_secs == 51.0 + 2.0


def test_a_checkpoint_whose_save_has_no_line_divides_its_steps_evenly():
    """As if lines of the timeline were lost with the machine: 10 steps in 10 s, resumed from step 4."""
    found = account([
        start(1.0, 0.0), phase(1.0, TRAINING), {"event": "heartbeat", "start": 0.0, "time": 11.0, "step": 10},
        start(11.0, 11.0), {"event": "resume", "time": 11.0, "step": 4}, {"event": "end", "time": 11.0},
    ])  # fmt: skip
    assert found.buckets["steps"] == pytest.approx(4.0) and found.buckets["lost"] == pytest.approx(6.0)
    assert (found.num_steps, found.lost_steps) == (4, 6)


def test_a_run_without_a_timeline_has_no_goodput(tmp_path):
    assert goodput(tmp_path) is None and account([]) is None
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "timeline.jsonl").write_text('{"event": "phase", "time": 1}\nnot json\n{"time": "x"}\n')
    assert goodput(tmp_path) is None


def test_the_line_names_the_largest_bucket_first():
    assert account(AGAIN).describe() == (
        "18.4% of 1:31 in 2 starts were 20 steps that count (4 more were lost); compilation 25.3%, start_up 20.9%, "
        "downtime 11.0%, data_preparation 6.6%, lost 5.5%, restore 3.3%, data_wait 3.3%, saves 3.3%, other 1.4%, "
        "evaluation 1.1%"
    )
    assert " in 2 starts was 1 step that counts (4 more" in dataclasses.replace(account(AGAIN), num_steps=1).describe()


def test_every_phase_of_a_run_has_a_bucket():
    """Phases in the code, without those of user hooks."""
    sources = [*(JAXDP / "training").glob("*.py"), *(JAXDP / "hooks").glob("*.py")]
    names = {
        node.args[0].value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
        and re.search(r"(^|\.)phase$", ast.unparse(node.func))
    }  # fmt: skip
    hooks = {name for path in sources for name in re.findall(r'phase = (?:"[a-z_]+", )?"([a-z ]+)"', path.read_text())}
    assert names | {OUTSIDE, TRAINING} <= PHASES.keys() and {"compiling", "restoring", "rolling back"} <= names
    assert {"evaluating", "saving a checkpoint"} <= PHASES.keys() & hooks
    assert set(PHASES.values()) <= BUCKETS.keys()


class Simulated:
    """A run on a clock of its own: it records with the recorder, and keeps a ledger of (bucket, seconds, step).

    The step of an entry is the one that it works on; None: it is never lost.
    """

    def __init__(self, workdir, seed):
        self.workdir, self.draws, self.now = workdir, random.Random(seed), 1000.0
        self.ledger, self.saved, self.finished = [], [0], []
        self.lost_secs = self.lost_steps = 0.0

    def spend(self, bucket, step=None):
        """Lets a random time pass."""
        secs = self.draws.choice([0.0, 0.01, 0.5, 3.0]) * self.draws.random()
        self.now += secs
        self.ledger.append((bucket, secs, step))
        return secs

    def one_start(self):
        """A start that is killed at a random place or ends, after a downtime."""
        logs = self.workdir / "logs"
        timeline = Timeline(
            logs / "timeline.jsonl", logs / "heartbeat.json", frozenset(PHASES), begin=self.now, clock=lambda: self.now
        )
        timeline._thread.start = lambda: None  # the clock stands still between two calls
        self.spend("start_up")
        timeline.__enter__()
        for action in self.actions(timeline):
            action()
            if self.draws.random() < 0.02:
                timeline.beat()  # the last sign of life
                timeline._close()
                break
        else:
            timeline.__exit__(None, None, None)
        self.spend("downtime")

    def actions(self, timeline):
        def within(name, bucket, step=None):
            timeline.phase(name)
            yield lambda: self.spend(bucket, step)

        for name in ("preparing the data", OUTSIDE, "compiling"):
            yield from within(name, PHASES[name] if name != OUTSIDE else "start_up")
        resumed = self.draws.choice(self.saved[-2:])
        yield from within("restoring", "restore")
        if not resumed:  # the state was initialised
            self.ledger[-1] = ("start_up", *self.ledger[-1][1:])
        self.forget(resumed)
        timeline.resume(resumed)
        yield from within(OUTSIDE, "start_up")
        timeline.phase(TRAINING)
        step = resumed
        for _ in range(self.draws.randrange(40)):
            yield lambda step=step: self.one_step(timeline, step)
            step += 1
            if self.draws.random() < 0.1:
                yield from within("evaluating", "evaluation", step)
                timeline.phase(TRAINING)
            if self.draws.random() < 0.1:
                yield from within("saving a checkpoint", "saves", step)
                timeline.phase(TRAINING)
                self.saved.append(step)
            if self.draws.random() < 0.1:
                yield from within("in the hook X", "other", step + 1)  # after the save, so not in its checkpoint
                timeline.phase(TRAINING)
        yield from within(OUTSIDE, "other")

    def one_step(self, timeline, step):
        wait = self.spend("data_wait", step + 1)
        self.spend("steps", step + 1)
        timeline.step_finished(step + 1, wait)
        self.finished.append(step + 1)

    def forget(self, step):
        """Moves the work after a step to the lost work."""
        self.lost_secs += sum(secs for _, secs, worked_on in self.ledger if worked_on is not None and worked_on > step)
        self.ledger = [entry for entry in self.ledger if entry[2] is None or entry[2] <= step]
        self.lost_steps += sum(done > step for done in self.finished)
        self.finished = [done for done in self.finished if done <= step]
        self.saved = [saved for saved in self.saved if saved <= step]


def test_random_runs_with_kills_and_damaged_checkpoints_add_up(tmp_path):
    num_lost = 0
    for seed in range(60):
        run = Simulated(tmp_path / str(seed), seed)
        run.workdir.mkdir()
        for _ in range(run.draws.randrange(1, 12)):
            run.one_start()
        expected = dict.fromkeys(BUCKETS, 0.0) | {"lost": run.lost_secs}
        for bucket, secs, _ in run.ledger:
            expected[bucket] += secs
        expected["downtime"] -= run.ledger[-1][1]  # after the last start there is none
        found = goodput(run.workdir)
        assert found.buckets == pytest.approx(expected, abs=1e-3), seed
        assert found.wall_secs == pytest.approx(run.now - run.ledger[-1][1] - 1000.0, abs=1e-3)
        assert (found.num_steps, found.lost_steps) == (len(run.finished), run.lost_steps), seed
        assert min(found.buckets.values()) >= 0.0
        num_lost += found.lost_steps
    assert num_lost > 500
