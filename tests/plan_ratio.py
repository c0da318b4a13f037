"""Steps of this machine against the plan of `jaxdp plan --for=here`, in turns with the rates that the plan starts from.

    python tests/plan_ratio.py CONFIG [--secs=60] [--config.KEY=VALUE ...]

Prints the shortest and the median step, the ceilings of the plan, and their ratio, as one JSON object. Both sides take the best
of the same minutes, so that other work on the machine disturbs both. Nothing is asserted: it is a measurement.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import time

import jax

from jaxdp.config import load_config, parse_config
from jaxdp.plan.ceilings import Rates, measured_rates, step_time
from jaxdp.plan.work import work_of
from jaxdp.training.device_memory import step_memory
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.setup import TrainingSetup

TURN_SECS = 1.0
"""Duration of steps between two measurements of the rates."""


def measure(setup: TrainingSetup, secs: float) -> tuple[list[float], Rates]:
    """Returns the durations of steps, each until its metrics are there, and the highest rates of matrix product and copy."""
    program, state, control_word = setup.compile_step(), setup.fresh_state(), setup.control_word_maker()(0, 0)
    batches = itertools.cycle([setup.place(batch)[0] for batch in itertools.islice(setup.loader.batches(0), 4)])
    durations, rates, end = [], measured_rates(setup.topology), time.perf_counter() + secs
    while time.perf_counter() < end:
        turn = time.perf_counter() + TURN_SECS
        while time.perf_counter() < turn:
            start = time.perf_counter()
            state, metrics = program(state, next(batches), control_word)
            jax.block_until_ready(metrics)
            durations.append(time.perf_counter() - start)
        found = measured_rates(setup.topology)
        memory = max(found.memory, rates.memory)
        rates = dataclasses.replace(
            found, flops=max(found.flops, rates.flops), memory=memory, link=memory / 2, network=memory / 2
        )
    return durations[1:], rates


def compare(setup: TrainingSetup, secs: float) -> dict[str, object]:
    """Returns durations, ceilings and ratio, in milliseconds and FLOP/s."""
    durations, rates = measure(setup, secs)
    memory, count = step_memory(setup, setup.compile_step()), setup.topology.num_devices
    state = memory.parameters + memory.optimizer + memory.ema + memory.sync_state + memory.gradients
    reduced = (setup.bytes_on_wire or 0) * count / max(2 * (count - 1), 1)
    planned = step_time(rates, work_of(setup.trace_step()), state, reduced, count, overlaps=False)
    return {
        "devices": count, "device_kind": setup.topology.kind, "steps": len(durations),
        "step_ms_min": 1e3 * min(durations), "step_ms": 1e3 * statistics.median(durations),
        "plan_ms": 1e3 * planned.secs, "plan_compute_ms": 1e3 * planned.compute_secs,
        "plan_memory_ms": 1e3 * planned.memory_secs, "plan_link_ms": 1e3 * planned.link_secs,
        "flops_per_sec": rates.flops, "memory_bytes_per_sec": rates.memory, "ratio": min(durations) / planned.secs,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--secs", type=float, default=60.0)
    options, rest = parser.parse_known_args()
    configuration = parse_config(load_config(options.config, rest))
    print(json.dumps(compare(TrainingSetup(prepare_run(configuration)), options.secs)))
