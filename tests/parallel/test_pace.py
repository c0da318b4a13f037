"""The slowest of several processes, from what each measured of itself."""

import pytest

from jaxdp.parallel.pace import Pace, describe_slowest, find_slowest, read_pace

FINE = Pace(late=0.0, data_wait=0.01, host=0.02, stalled=0.0)


def test_the_slowest_is_compared_with_the_median_of_the_others():
    reads_slowly = Pace(late=0.6, data_wait=0.58, host=0.02, stalled=0.0)
    slowest = find_slowest({0: FINE, 1: reads_slowly, 2: FINE._replace(late=0.1), 3: FINE._replace(late=0.9, host=0.9)})
    assert slowest.process == 3 and slowest.excess == pytest.approx(0.9 - 0.1)
    assert slowest.others == Pace(0.1, 0.01, 0.02, 0.0)


def test_time_without_execution_counts_once():
    slowest = find_slowest({0: FINE, 1: Pace(late=0.3, data_wait=0.0, host=0.3, stalled=0.5)})
    assert (slowest.process, slowest.excess) == (1, 0.5)


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
