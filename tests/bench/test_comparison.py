"""Comparison of settings in rounds that alternate; the times themselves are no matter of tests."""

import json

import pytest

from jaxdp.bench import comparison
from jaxdp.cli.main import main


class Clock:
    """A machine that becomes slower by the same factor every time it is used."""

    def __init__(self, costs):
        self.now, self.costs = 1.0, costs

    def contestant(self, index):
        clock = self

        class Contestant:
            def run(self, num_steps):
                clock.now *= 1.1
                return clock.now * clock.costs[index]

        return Contestant()


def test_the_ratio_is_taken_within_rounds_in_both_orders():
    clock = Clock([1.0, 2.0])
    contestants = [clock.contestant(0), clock.contestant(1)]
    forwards = comparison._run_round(contestants, 0)
    backwards = comparison._run_round(contestants, 1)
    assert forwards[1] / forwards[0] == pytest.approx(2.2)
    assert backwards[1] / backwards[0] == pytest.approx(2 / 1.1)


def test_two_settings_are_compared(config_file, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "ROUND_STEPS", 1)
    monkeypatch.setattr(comparison, "WARMUP_STEPS", 1)
    command = ["bench", f"--config={config_file}", "--steps=10", "--compare=global_batch_size=16,8"]
    assert main([*command, "--json"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["setting"], second["setting"]) == ("global_batch_size=16", "global_batch_size=8")
    assert first["ratio"] == 1 and first["rounds"] == second["steps"] == 10
    low, high = second["ratio_min_max"]
    assert 0 < low <= second["ratio"] <= high
    assert first["device_bytes"] > second["device_bytes"]  # they are different programs
