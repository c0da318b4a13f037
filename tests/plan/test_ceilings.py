"""Ceilings of a step and the model of more devices: against formulas by hand, and what this machine measures."""

import dataclasses

import pytest

from jaxdp.errors import UserError
from jaxdp.parallel.devices import init_devices
from jaxdp.parallel.wire_bytes import all_reduce_bytes
from jaxdp.plan.ceilings import Rates, communication_secs, measured_rates, scaling, step_time
from jaxdp.plan.work import Work
from jaxdp.report.scaling_plot import check_picture, plot_scaling

RATES = Rates(
    flops=100.0, memory=10.0, link=5.0, network=1.0, hop_secs=0.0, in_server=4, axes=1, source="made up"
)  # fmt: skip


def test_a_step_is_its_longest_part_or_waits_for_the_links():
    overlapped = step_time(RATES, Work(600.0, 20.0), state_bytes=5.0, gradient_bytes=20.0, count=2, overlaps=True)
    assert (overlapped.compute_secs, overlapped.memory_secs, overlapped.link_secs) == (6.0, 3.0, 4.0)
    assert (overlapped.secs, overlapped.limit) == (6.0, "compute")
    assert dataclasses.replace(overlapped, overlaps=False).secs == 10.0


@pytest.mark.parametrize("count", [1, 2, 4])
def test_inside_a_server_a_ring_sends_what_the_strategies_state(count):
    assert communication_secs(RATES, 60.0, count) == pytest.approx(all_reduce_bytes(60.0, count) / RATES.link)


def test_between_servers_each_device_reduces_its_share():
    inside = all_reduce_bytes(60.0, 4) / RATES.link
    assert communication_secs(RATES, 60.0, 8) == pytest.approx(inside + all_reduce_bytes(60.0 / 4, 2) / RATES.network)


def test_hops_of_a_torus_are_those_of_its_axes():
    ring = dataclasses.replace(RATES, hop_secs=1.0, in_server=4096)
    assert communication_secs(ring, 0.0, 64) == pytest.approx(2 * 63)
    assert communication_secs(dataclasses.replace(ring, axes=3), 0.0, 64) == pytest.approx(2 * 3 * 3)


def test_scaling_and_its_picture(tmp_path):
    timed = step_time(RATES, Work(600.0, 0.0), 0.0, 20.0, 1, overlaps=False)
    rows = scaling(RATES, timed, 20.0)
    shares = [row["efficiency"] for row in rows]
    assert [row["devices"] for row in rows][-1] == 4096 and shares[0] == 1 and shares == sorted(shares, reverse=True)
    assert shares[1] == pytest.approx(6 / (6 + 4))
    assert plot_scaling({"a": rows, "b": rows}, tmp_path / "new" / "scaling.svg").stat().st_size > 1000
    with pytest.raises(UserError, match=r"must end in \.png, \.pdf or \.svg"):
        check_picture(tmp_path / "scaling.gif")


def test_rates_of_this_machine():
    rates = measured_rates(init_devices())
    assert 1e6 < rates.memory < 1e13 and 1e6 < rates.flops < 1e15
