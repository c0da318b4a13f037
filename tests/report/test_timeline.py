"""Recorder of the timeline: what is on disk after a kill, half a line, a full disk, and in other processes."""

import json
import os
import signal
import subprocess
import sys

import pytest

from jaxdp.report.goodput import PHASES, goodput
from jaxdp.report.timeline import Timeline, read_record, read_timeline, record_refusal
from jaxdp.watchdog import OUTSIDE, TRAINING, Watchdog

KILLED = """
import os, signal, sys
from pathlib import Path
from jaxdp.report.timeline import Timeline

logs = Path(sys.argv[1])
with Timeline(logs / "timeline.jsonl", logs / "heartbeat.json", frozenset({"training"})) as timeline:
    timeline.resume(40)
    timeline.phase("training")
    for step in range(41, 1042):
        timeline.step_finished(step, 0.25)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def make(tmp_path):
    """Makes a recorder whose clock is `make.now`."""

    def make(**options):
        logs = tmp_path / "logs"
        paths = (logs / "timeline.jsonl", logs / "heartbeat.json")
        return Timeline(*paths, frozenset(PHASES), clock=lambda: make.now, **options)

    make.now = 1000.0
    return make


def events_in(tmp_path):
    return read_timeline(tmp_path / "logs" / "timeline.jsonl")


def test_sigkill_loses_no_step(tmp_path):
    outcome = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "logs")], env=os.environ)
    assert outcome.returncode == -signal.SIGKILL
    record = read_record(tmp_path / "logs" / "heartbeat.json")
    assert (record["step"], record["wait"]) == (1041, 1001 * 0.25)
    assert [event["event"] for event in events_in(tmp_path)] == ["start", "resume", "phase"]
    assert goodput(tmp_path).num_steps == 1001


def test_the_next_start_keeps_the_last_record_of_the_one_before(make, tmp_path):
    with make(begin=998.0) as timeline:
        timeline.phase(TRAINING)
        make.now = 1007.0
        timeline.step_finished(3, 0.5)
        timeline._close()  # as a kill does
    make.now = 1010.0
    with make():
        pass
    beat = {"event": "heartbeat", "time": 1007.0, "start": 998.0, "step": 3, "wait": 0.5, "other": 0.0}
    assert beat in events_in(tmp_path)
    assert read_record(tmp_path / "logs" / "heartbeat.json")["start"] == 1010.0


def test_a_record_is_replaced_as_a_whole(make, tmp_path):
    with make() as timeline:
        for step in (10**12, 1):
            timeline.step_finished(step, 0.0)
            [line] = (tmp_path / "logs" / "heartbeat.json").read_text().splitlines()
            assert json.loads(line)["step"] == step


def test_half_a_line_of_a_crash_costs_only_itself(make, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "timeline.jsonl").write_text('{"event": "start", "time": 1.0}\n{"event": "pha')
    (tmp_path / "logs" / "heartbeat.json").write_bytes(b"\0" * 160)
    with make():
        pass
    assert [event["event"] for event in events_in(tmp_path)] == ["start", "start", "end"]


def test_a_refusal_is_a_line_of_a_run_and_makes_no_file(make, tmp_path):
    path = tmp_path / "logs" / "timeline.jsonl"
    record_refusal(path, 999.0)
    assert not path.parent.exists()
    with make():
        pass
    path.write_text(path.read_text() + '{"event": "pha')  # half a line of a crash
    record_refusal(path, None)
    record_refusal(path, 999.0)
    *_, end, refused = events_in(tmp_path)
    assert end["event"] == "end"
    assert (refused["event"], refused["begin"]) == ("refused", 999.0) and refused["time"] > 999.0


def test_phases_without_lines_are_added_up(make, tmp_path):
    with make() as timeline:
        timeline.phase(TRAINING)
        for _ in range(3):
            timeline.phase("in the hook X")
            make.now += 2.0
            timeline.phase(TRAINING)
        timeline.phase(OUTSIDE)
    *_, outside, end = events_in(tmp_path)
    assert (outside["phase"], outside["other"]) == (OUTSIDE, 6.0) and end["event"] == "end"
    assert sum(event["event"] == "phase" for event in events_in(tmp_path)) == 2


def test_the_watchdog_names_the_phase_that_goes_on_after_an_inner_one(tmp_path):
    names = []
    watchdog = Watchdog(0.0, tmp_path / "log", on_phase=names.append)
    with pytest.raises(ValueError), watchdog.phase(TRAINING):
        with watchdog.phase("evaluating"):
            pass
        raise ValueError
    assert names == [TRAINING, "evaluating", TRAINING, OUTSIDE]


def test_other_processes_write_nothing(make, tmp_path):
    with make(is_recorded=False) as timeline:
        timeline.phase(TRAINING)
        timeline.step_finished(1, 0.0)
    assert not (tmp_path / "logs").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("file", ["_line_file", "_record_file"])
def test_a_full_disk_is_reported_once_and_training_goes_on(make, tmp_path, capsys, file):
    with make() as timeline:
        os.close(getattr(timeline, file))
        setattr(timeline, file, os.open("/dev/full", os.O_WRONLY))
        for step in range(3):
            timeline.step_finished(step, 0.0)
            timeline.phase("compiling")
            timeline.phase(TRAINING)
    said = capsys.readouterr().err
    assert said.count("can no longer be written (No space left on device)") == 1
    assert "jaxdp inspect" in said


def test_a_directory_in_the_place_of_the_file_is_reported(make, tmp_path, capsys):
    (tmp_path / "logs" / "timeline.jsonl").mkdir(parents=True)
    with make() as timeline:
        timeline.phase(TRAINING)
    assert "can no longer be written (Is a directory)" in capsys.readouterr().err
