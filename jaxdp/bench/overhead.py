"""`jaxdp bench --checks`: what watching over a run costs, from the same steps with and without it, in turns.

A machine's speed drifts by more than the checks cost. So short blocks alternate,
what counts is the median of the differences within a round, and the blocks are
of the smallest batch, one row a device: the checks look at parameters and
numbers of a step, so they cost the same there and stand out. On CPU the
processor time is told too: other programs on the machine change it less.
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
from jaxdp.parallel.spmd import Program
from jaxdp.trainer import Hook, train
from jaxdp.training.setup import TrainingSetup
from jaxdp.trees import named_leaves
from jaxdp.watchdog import TRAINING, Watchdog

BLOCK_STEPS = 10
MIN_ROUNDS = 3


def measure_checks(setup: TrainingSetup, num_steps: int) -> dict[str, Any]:
    """Times about `num_steps` of the smallest steps, and some of the run's own to compare with.

    Returns:
        step_ms: median time of the run's step without any check.
        every_step_ms: what skipping bad updates, the watchdog and the watch over
            skipped updates add to it.
        consistency_ms: what one comparison of the devices takes.
        share: of a step's time that all take together, at the configuration's
            `parallel.check_every_steps`.
        cpu: the same four in processor time of this process.
    """
    num_rounds = max(num_steps // (3 * BLOCK_STEPS), MIN_ROUNDS)
    num_devices, every = setup.topology.num_devices, setup.config.parallel.check_every_steps
    steps = _Blocks(setup, setup.shape, with_checks=False)
    blocks = _Blocks(setup, divide_batch(num_devices, 1, num_devices), with_checks=True)
    taken_by_steps = [steps.run_round(0) for _ in range(1 + MIN_ROUNDS)][1:]
    taken = [blocks.run_round(turn) for turn in range(1 + num_rounds)][1:]
    wall, cpu = (_summary(taken_by_steps, taken, clock, every) for clock in (0, 1))
    return {
        "devices": num_devices,
        "device_kind": setup.topology.kind,
        "rounds": num_rounds,
        "check_every_steps": every,
        **wall,
        "cpu": cpu,
    }


Taken = dict[str, tuple[float, float]]
"""Seconds, and seconds of the processor, of a block of each kind in one round."""


def _summary(steps: Sequence[Taken], rounds: Sequence[Taken], clock: int, every: int) -> dict[str, float]:
    """Medians over the rounds by one of the two clocks."""

    def difference(more: str, less: str) -> float:
        return 1e3 * statistics.median(taken[more][clock] - taken[less][clock] for taken in rounds)

    step_ms = 1e3 * statistics.median(taken["bare"][clock] for taken in steps) / BLOCK_STEPS
    every_step_ms = difference("watched", "bare") / BLOCK_STEPS
    consistency_ms = difference("compared", "watched")
    together = every_step_ms + (consistency_ms / every if every else 0.0)
    return {
        "step_ms": step_ms,
        "every_step_ms": every_step_ms,
        "consistency_ms": consistency_ms,
        "share": together / step_ms,
    }


class _Blocks:
    """The same steps in several ways, each a short run of the loop itself."""

    def __init__(self, setup: TrainingSetup, shape: BatchShape, *, with_checks: bool):
        """
        Args:
            setup: of the run.
            shape: of the batch.
            with_checks: besides `bare`, without any check, run blocks `watched`,
                with those of every step, and `compared`, with one comparison of the
                devices on top.
        """
        config, topology = setup.config, setup.topology
        self._watchdog = Watchdog(config.parallel.watchdog_secs, Path(os.devnull))
        watching = [Watching(self._watchdog), Divergence(config.optim.max_skipped_in_a_row)]
        names = [name for name, _ in named_leaves(setup.abstract_state)]
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

    def run_round(self, turn: int) -> Taken:
        """A block of each kind, one after another; every turn begins with another."""
        first = turn % len(self._kinds)
        with self._watchdog.phase(TRAINING):
            return {
                kind: self._block(program, hooks)
                for kind, program, hooks in self._kinds[first:] + self._kinds[:first]
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
