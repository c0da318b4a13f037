"""Comparison of settings (`jaxdp bench --compare=KEY=A,B`): step times of one key's values, measured in turns in one process.

The speed of a machine drifts by more than most settings cost. Therefore rounds of a few steps of each setting follow
each other, in an order that is reversed every time, and the ratio is taken within a round.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax

from jaxdp.data.prefetch import Prefetch
from jaxdp.run_config import RunConfig
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.setup import TrainingSetup

WARMUP_STEPS = 5
ROUND_STEPS = 5
MIN_ROUNDS = 4


def compare(configs: Sequence[RunConfig], num_steps: int) -> list[dict[str, Any]]:
    """Measures about `num_steps` steps of each configuration, in rounds that alternate.

    Args:
        configs: Configurations for the same devices; the others are compared with the first.
        num_steps: Number of measured steps of each; there are `MIN_ROUNDS` rounds of `ROUND_STEPS` at least.

    Returns:
        For each configuration `devices`, `device_kind`, `rounds`, `steps`; `step_ms`, the median over the rounds;
        `tokens_per_sec`; `ratio`, the median over the rounds of its time divided by that of the first configuration,
        and the range of these ratios, `ratio_min_max`; `device_bytes`, planned by the compiler.
    """
    setups = [TrainingSetup(prepare_run(config)) for config in configs]
    num_rounds = max(num_steps // ROUND_STEPS, MIN_ROUNDS)
    contestants = [_Contestant(setup) for setup in setups]
    rounds = [_run_round(contestants, turn) for turn in range(num_rounds)]
    for contestant in contestants:
        contestant.close()
    results = []
    for index, contestant in enumerate(contestants):
        step_secs = statistics.median(secs[index] for secs in rounds)
        ratios = [secs[index] / secs[0] for secs in rounds]
        setup = contestant.setup
        results.append(
            {
                "devices": setup.topology.num_devices,
                "device_kind": setup.topology.kind,
                "rounds": num_rounds,
                "steps": num_rounds * ROUND_STEPS,
                "step_ms": 1e3 * step_secs,
                "tokens_per_sec": setup.config.global_batch_size * setup.config.data.length / step_secs,
                "ratio": statistics.median(ratios),
                "ratio_min_max": [min(ratios), max(ratios)],
                "device_bytes": contestant.program.device_bytes,
            }
        )
    return results


class _Contestant:
    """A configuration with its compiled step, its state and its batches."""

    def __init__(self, setup: TrainingSetup):
        self.setup, self.program = setup, setup.compile_step()
        self._state, self._control_word = setup.fresh_state(), setup.control_word_maker()(0, 0)
        self._batches = Prefetch(setup.loader.batches(0), setup.place, setup.config.data.prefetch_batches)
        self.run(WARMUP_STEPS)

    def run(self, num_steps: int) -> float:
        """Runs steps, and returns the seconds a step."""
        start = time.perf_counter()
        for _ in range(num_steps):
            self._state, _ = self.program(self._state, next(self._batches)[0], self._control_word)
        jax.block_until_ready(self._state)
        return (time.perf_counter() - start) / num_steps

    def close(self) -> None:
        """Ends the thread that makes batches."""
        self._batches.close()


def _run_round(contestants: Sequence[_Contestant], turn: int) -> list[float]:
    """Runs each contestant once, backwards in every other turn; returns seconds a step, in their order."""
    order = range(len(contestants))
    secs = {index: contestants[index].run(ROUND_STEPS) for index in (reversed(order) if turn % 2 else order)}
    return [secs[index] for index in order]
