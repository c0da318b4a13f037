"""The slowest of several processes, from what each measured of itself."""

import pytest

from jaxdp.parallel.pace import Pace, Slowest, describe_slowest, find_slowest, is_slow, mean_paces, read_pace

FINE = Pace(late=0.0, data_wait=0.01, host=0.02, stalled=0.0)


def test_the_slowest_is_compared_with_the_median_of_the_others():
    reads_slowly = Pace(late=0.6, data_wait=0.58, host=0.02, stalled=0.0)
    slowest = find_slowest({0: FINE, 1: reads_slowly, 2: FINE._replace(late=0.1), 3: FINE._replace(late=0.9, host=0.9)})
    assert slowest.process == 3 and slowest.excess == pytest.approx(0.9 - 0.1)
    assert slowest.others == Pace(0.1, 0.01, 0.02, 0.0)


def test_time_without_execution_counts_once():
    slowest = find_slowest({0: FINE, 1: Pace(late=0.3, data_wait=0.0, host=0.3, stalled=0.5)})
    assert (slowest.process, slowest.excess) == (1, 0.5)


@pytest.mark.parametrize(("excess", "step_secs", "expected"), [
    (0.09, 1.0, False), (0.11, 1.0, True), (0.11, 0.015, False), (0.5, 0.003, False), (0.5, 0.005, True),
])  # fmt: skip
def test_a_slow_process_costs_a_share_and_some_time_of_a_step(excess, step_secs, expected):
    assert is_slow(Slowest(1, excess, FINE, FINE), step_secs) == expected


def test_mean_paces_are_weighted_by_time():
    found = mean_paces([(1.0, {0: FINE, 1: FINE}), (3.0, {0: FINE, 1: Pace(0.8, 0.41, 0.02, 0.4)})])
    assert found[0] == pytest.approx(FINE)
    assert found[1] == pytest.approx(Pace(late=0.6, data_wait=0.31, host=0.02, stalled=0.3))


def test_a_process_alone_is_not_slow():
    assert find_slowest({0: FINE}) is None


@pytest.mark.parametrize(
    ("pace", "advice"),
    [
        (Pace(0.6, 0.58, 0.02, 0.0), "look at the disk or network that its data come from"),
        (Pace(0.6, 0.01, 0.59, 0.0), "look at its hooks"),
        (Pace(0.1, 0.01, 0.02, 0.5), "look at what else runs on its machine"),
    ],
)
def test_the_warning_has_the_numbers_and_what_to_look_at(pace, advice):
    sentence = describe_slowest(find_slowest({0: FINE, 1: pace}), "b", 0.1)
    assert sentence.startswith("process 1 on b is the slowest and costs ")
    assert f"waits {100 * pace.data_wait:.3g} ms for data (median of the others 1)" in sentence
    assert advice in sentence


@pytest.mark.parametrize("wrong", [None, [], [0.1] * 3, [0.1] * 5, ["0.1"] * 4, [True] * 4, {"late": 0.1}])
def test_a_pace_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError):
        read_pace(wrong)
    assert read_pace([0, 0.5, 1, 0.0]) == Pace(0.0, 0.5, 1.0, 0.0)
