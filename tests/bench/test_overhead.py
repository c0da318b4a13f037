"""What the checks cost is measured on the run's own parts; the times themselves are no matter of tests."""

import pytest
from tiny_runs import load

from jaxdp.bench import overhead as checks
from jaxdp.bench import step as benchmark
from jaxdp.bench.overhead import BLOCK_STEPS, _summary


def test_every_number_is_there(config_file, monkeypatch):
    monkeypatch.setattr(checks, "BLOCK_STEPS", 2)
    monkeypatch.setattr(checks, "MIN_ROUNDS", 1)
    # Eight rows are the smallest batch already, so that one program less is compiled.
    result = benchmark.measure_checks(load(config_file, "global_batch_size=8"), 6)
    assert (result["devices"], result["rounds"], result["check_every_steps"]) == (8, 1, 100)
    names = {"step_ms", "every_step_ms", "consistency_ms", "share"}
    assert names <= result.keys() and names == result["cpu"].keys()
    assert result["step_ms"] > 0


@pytest.mark.parametrize(("every", "share"), [(10, (0.2 + 0.3) / 50), (0, 0.2 / 50)])
def test_the_share_is_of_all_checks_and_of_the_runs_own_step(every, share):
    steps = [{"bare": (0.05 * BLOCK_STEPS, 0.0)}] * 3
    # A drift within the rounds that would hide the checks, were they not compared round by round.
    rounds = [
        {"bare": (1.0 + drift, 0.0), "watched": (1.002 + drift, 0.0), "compared": (1.005 + drift, 0.0)}
        for drift in (0.0, 0.5, 3.0)
    ]
    found = _summary(steps, rounds, 0, every)
    assert found["step_ms"] == pytest.approx(50) and found["every_step_ms"] == pytest.approx(0.2)
    assert found["consistency_ms"] == pytest.approx(3.0)
    assert found["share"] == pytest.approx(share)
