"""Overhead of the runtime checks (`jaxdp bench --checks`): update skipping, watchdog and replica comparison.

The speed of a machine drifts by more than the checks cost. Therefore short blocks with and without checks
alternate, and the result is the median of the differences within a round. Blocks use the smallest batch, one
sequence per device: the cost of the checks depends on the parameters rather than on the batch, so it is easiest
to measure there. Processor time is reported too, since other programs on the machine change it less.
"""

import dataclasses
import itertools
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdp.data.prefetch import QueueState
from jaxdp.hooks.consistency import Consistency
from jaxdp.hooks.divergence import Divergence
from jaxdp.hooks.every import Every
from jaxdp.hooks.watching import Watching
from jaxdp.parallel.devices import BatchShape, divide_batch
from jaxdp.parallel.layout import replicated_leaves
from jaxdp.parallel.spmd import Program
from jaxdp.trainer import Hook, train
from jaxdp.training.setup import TrainingSetup
from jaxdp.watchdog import TRAINING, Watchdog

BLOCK_STEPS = 10
MIN_ROUNDS = 3


def measure_checks(setup: TrainingSetup, num_steps: int) -> dict[str, Any]:
    """Measures the checks in about `num_steps` steps of the smallest batch, and a few steps of the configured batch.

    Returns:
        step_ms: Median time of a step of the configured batch without checks.
        every_step_ms: Time per step of update skipping, watchdog and divergence detection.
        consistency_ms: Time of one comparison of the replicas.
        share: Fraction of the step time that all checks take at `parallel.check_every_steps`.
        cpu: The same four in processor time of this process.
    """
    num_rounds = max(num_steps // (3 * BLOCK_STEPS), MIN_ROUNDS)
    num_devices, every = setup.topology.num_devices, setup.config.parallel.check_every_steps
    steps = _Blocks(setup, setup.shape, with_checks=False)
    blocks = _Blocks(setup, divide_batch(num_devices, 1, num_devices), with_checks=True)
    step_rounds = [steps.run_round(0) for _ in range(1 + MIN_ROUNDS)][1:]
    rounds = [blocks.run_round(turn) for turn in range(1 + num_rounds)][1:]
    wall, cpu = (_summary(step_rounds, rounds, clock, every) for clock in (0, 1))
    return {
        "devices": num_devices,
        "device_kind": setup.topology.kind,
        "rounds": num_rounds,
        "check_every_steps": every,
        **wall,
        "cpu": cpu,
    }


BlockTimes = dict[str, tuple[float, float]]
"""(wall-clock seconds, processor seconds) of one round, by kind of block."""


def _summary(steps: Sequence[BlockTimes], rounds: Sequence[BlockTimes], clock: int, every: int) -> dict[str, float]:
    """Returns medians over the rounds; `clock` is 0 for wall-clock time, 1 for processor time."""

    def difference(more: str, less: str) -> float:
        return 1e3 * statistics.median(times[more][clock] - times[less][clock] for times in rounds)

    step_ms = 1e3 * statistics.median(times["bare"][clock] for times in steps) / BLOCK_STEPS
    every_step_ms = difference("watched", "bare") / BLOCK_STEPS
    consistency_ms = difference("compared", "watched")
    total_ms = every_step_ms + (consistency_ms / every if every else 0.0)
    return {
        "step_ms": step_ms,
        "every_step_ms": every_step_ms,
        "consistency_ms": consistency_ms,
        "share": total_ms / step_ms,
    }


class _Blocks:
    """Blocks of the same steps with different checks; each block is a short run of the training loop."""

    def __init__(self, setup: TrainingSetup, shape: BatchShape, *, with_checks: bool):
        """Compiles the steps.

        Args:
            setup: Training setup of the run.
            shape: Shape of the batch.
            with_checks: Whether to add blocks `watched`, with the checks of every step, and `compared`, with one
                comparison of the replicas in addition, to the blocks `bare` without checks.
        """
        config, topology = setup.config, setup.topology
        self._watchdog = Watchdog(config.parallel.watchdog_secs, Path(os.devnull))
        watching = [Watching(self._watchdog), Divergence(config.optim.max_skipped_in_a_row)]
        names = [name for name, _ in replicated_leaves(setup.placement.abstract, setup.placement.layout)]
        bare = setup.compile_step(dataclasses.replace(setup.update, skip_by="never"), shape)
        self._kinds: list[tuple[str, Program, Sequence[Hook]]] = [("bare", bare, [])]
        if with_checks:
            checked = setup.compile_step(shape=shape)
            consistency = Consistency(
                setup.compile_checksums(), names, topology, Every(BLOCK_STEPS), lambda step: False
            )
            self._kinds += [("watched", checked, watching), ("compared", checked, [consistency, *watching])]
        self._state = setup.fresh_state()
        rows = shape.device_batch_size * topology.num_local_devices
        host_batch = next(setup.loader.batches(0))
        self._batch = setup.place({name: array[:rows] for name, array in host_batch.items()})
        self._make_control_word = setup.control_word_maker()

    def run_round(self, turn: int) -> BlockTimes:
        """Runs one block of each kind; the first kind alternates with `turn`."""
        first = turn % len(self._kinds)
        with self._watchdog.phase(TRAINING):
            return {
                kind: self._block(program, hooks) for kind, program, hooks in self._kinds[first:] + self._kinds[:first]
            }

    def _block(self, program: Program, hooks: Sequence[Hook]) -> tuple[float, float]:
        jax.block_until_ready(self._state)
        start, cpu_start = time.perf_counter(), time.process_time()
        outcome = train(
            program,
            self._state,
            itertools.repeat(self._batch),
            self._make_control_word,
            hooks,
            first_step=0,
            total_steps=BLOCK_STEPS,
            queue=lambda: QueueState(1, 1, 0.0),
        )
        self._state = jax.block_until_ready(outcome.state)
        return time.perf_counter() - start, time.process_time() - cpu_start
