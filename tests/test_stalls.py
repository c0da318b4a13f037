"""The stall meter, with a clock of its own and with that of the machine."""

import pytest

from jaxdp.stalls import TICK_SECS, TOLERANCE_SECS, StallMeter


def test_only_the_delay_of_a_wake_up_counts():
    now = [100.0]
    meter = StallMeter(clock=lambda: now[0])
    for secs in (TICK_SECS, TICK_SECS + 0.9 * TOLERANCE_SECS, TICK_SECS + 0.1, 3.0):
        now[0] += secs
        meter.tick()
    assert meter.secs == pytest.approx(0.1 + 3.0 - TICK_SECS)


def test_its_thread_ends_with_it():
    with StallMeter() as meter:
        assert meter._thread.is_alive()
    assert not meter._thread.is_alive()
