"""The hook that measures a process and names the slowest; times are those of the steps, not of a clock."""

from types import SimpleNamespace

import pytest

from jaxdp.data.prefetch import QueueState
from jaxdp.hooks.every import Every
from jaxdp.hooks.pacing import MIN_WINDOWS, WARN_EVERY_WINDOWS, WINDOW_SECS, Pacing
from jaxdp.parallel.pace import Pace
from jaxdp.trainer import StepInfo

FINE = Pace(0.0, 0.0, 0.01, 0.0)


class Run:
    """A hook on one of two processes, with the other's pace and the stalled time set by the test."""

    def __init__(self, process=0, every=2):
        self.said, self.sent, self.others, self.stalled, self.now = [], [], {}, 0.0, 0.0
        control_plane = SimpleNamespace(
            num_processes=2, process_index=process, is_main_process=process == 0, hosts=["a", "b"],
            send_pace=self.sent.append, paces=lambda: dict(self.others),
        )  # fmt: skip
        self.hook = Pacing(Every(every), control_plane, lambda: self.stalled, self.said.append, clock=lambda: self.now)
        self.step = 0

    def steps(self, count, secs=0.1, data_wait=0.0, device_wait=0.1):
        for _ in range(count):
            self.step += 1
            self.now += secs
            self.hook.on_step(StepInfo(self.step, {}, secs, QueueState(2, 0, data_wait), device_wait))


def test_a_process_that_waits_for_its_devices_delays_nobody():
    run = Run()
    run.steps(2, data_wait=0.03, device_wait=0.06)
    assert Pace(*run.sent[0]) == pytest.approx(Pace(late=0.0, data_wait=0.3, host=0.1, stalled=0.0))


def test_a_process_whose_devices_were_ready_is_late():
    run = Run()
    run.steps(1, data_wait=0.09, device_wait=0.001)
    run.steps(1, data_wait=0.0, device_wait=0.09)
    assert Pace(*run.sent[0]) == pytest.approx(Pace(late=0.495, data_wait=0.45, host=0.095, stalled=0.0))


def test_stalled_time_is_that_of_the_line():
    run = Run()
    run.steps(2)
    run.stalled = 0.1
    run.steps(2)
    assert [pace[3] for pace in run.sent] == pytest.approx([0.0, 0.5])


def test_the_slowest_is_in_the_metrics_once_all_have_sent_a_pace():
    run = Run()
    run.steps(2)
    assert run.hook.metrics == {}
    run.others = {0: FINE._replace(late=0.9), 1: FINE._replace(late=0.5, data_wait=0.4)}
    run.steps(2)
    assert run.hook.metrics == pytest.approx(
        {"perf/slowest_process": 1, "perf/slowest_excess": 0.5, "perf/slowest_data_wait": 0.4}
    )


def test_the_warning_comes_for_several_windows_in_a_row_and_rarely():
    run = Run(every=1)
    slow = {1: FINE._replace(late=0.5)}
    for is_slow in [True, False] * 5:
        run.others = slow if is_slow else {1: FINE}
        run.steps(1, secs=WINDOW_SECS, device_wait=WINDOW_SECS)
    assert run.said == []
    run.others = slow
    run.steps(MIN_WINDOWS, secs=WINDOW_SECS, device_wait=WINDOW_SECS)
    assert len(run.said) == 1 and run.said[0].startswith("warning: process 1 on b is the slowest and costs 50% of the")
    run.steps(WARN_EVERY_WINDOWS - 1, secs=WINDOW_SECS, device_wait=WINDOW_SECS)
    assert len(run.said) == 1
    run.steps(1, secs=WINDOW_SECS, device_wait=WINDOW_SECS)
    assert len(run.said) == 2


@pytest.mark.parametrize(("share", "is_named"), [(0.5, True), (0.05, False)])
def test_lines_of_short_steps_are_judged_together(share, is_named):
    """A share of the lines in which a process is late by 90 %, as by the scheduling of a busy machine."""
    run = Run(every=1)
    for number in range(600):
        run.others = {1: FINE._replace(late=0.9) if number % 40 < 40 * share else FINE}
        run.steps(1, secs=0.015, device_wait=0.015)
    assert bool(run.said) == is_named


def test_a_process_stopped_half_of_the_time_is_named():
    """Stopped and continued every 0.1 s, in steps that would take 10 ms: lines of 20 steps."""
    run = Run(every=20)
    run.others = {1: FINE._replace(stalled=0.5)}
    run.steps(600, secs=0.02, device_wait=0.02)
    assert len(run.said) == 1 and "costs 50% of the step time: of 20 ms a step" in run.said[0]


def test_a_process_that_costs_little_time_is_not_named():
    run = Run(every=10)
    run.others = {1: FINE._replace(late=0.3)}
    run.steps(5000, secs=0.005, device_wait=0.005)
    assert run.said == []
    run.steps(5000, secs=0.008, device_wait=0.008)
    assert run.said and run.hook.metrics["perf/slowest_excess"] == pytest.approx(0.3)


def test_other_processes_only_send():
    run = Run(process=1)
    run.others = {0: FINE, 1: FINE._replace(late=0.5)}
    run.steps(8)
    assert len(run.sent) == 4 and run.said == [] and run.hook.metrics == {}
