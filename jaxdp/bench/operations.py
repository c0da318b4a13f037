"""Costliest operations of a train step (`jaxdp bench --trace`), from a trace of a few steps."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import jax

from jaxdp.bench.device_time import Operation, find_trace, grouped, read_device_time, source_names
from jaxdp.parallel.spmd import Program
from jaxdp.run_config import RunConfig
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.setup import TrainingSetup

NUM_STEPS = 3
NUM_OPERATIONS = 10
WARMUP_STEPS = 5


def measure_operations(config: RunConfig) -> dict[str, Any]:
    """Traces `NUM_STEPS` steps of a configuration, and sums the time of the devices by operation.

    Returns:
        `devices`, `device_kind`; `step_ms`, from the first operation to the last; `busy`, the fraction of it in which an
        operation ran; `operation_ms`, the sum of all operations a step, over all simulated CPU devices or the first
        accelerator; `operations`, the costliest first: `name`, `kernel`, `source` (place in the model), `ms`, `count`
        (a step) and `share`.

    Raises:
        RuntimeError: The profiler of this platform names no operation.
    """
    setup = TrainingSetup(prepare_run(config))
    program = setup.compile_step()
    with tempfile.TemporaryDirectory(prefix="jaxdp_trace_") as directory:
        time = read_device_time(trace_steps(setup, program, Path(directory)))
    if not time.operations:
        raise RuntimeError(f"the trace of {setup.topology.kind} names no operation of a device")
    total = sum(operation.secs for operation in time.operations)
    operations = grouped(time.operations, source_names(program.call.as_text() or ""))
    return {
        "devices": setup.topology.num_devices,
        "device_kind": setup.topology.kind,
        "step_ms": 1e3 * time.span_secs / NUM_STEPS,
        "busy": time.busy_secs / time.span_secs,
        "operation_ms": 1e3 * total / NUM_STEPS,
        "operations": [_a_step(operation, total) for operation in operations[:NUM_OPERATIONS]],
    }


def trace_steps(setup: TrainingSetup, program: Program, directory: Path) -> Path:
    """Runs a compiled train step `WARMUP_STEPS` times and again `NUM_STEPS` times under the profiler.

    Args:
        setup: Parts of the run.
        program: Train step, as `TrainingSetup.compile_step` returns it.
        directory: Where the profiler writes.

    Returns:
        Path of the trace.
    """
    state, control_word, batches = setup.fresh_state(), setup.control_word_maker()(0, 0), setup.loader.batches(0)
    placed = [setup.place(next(batches))[0] for _ in range(WARMUP_STEPS + NUM_STEPS)]
    for batch in placed[:WARMUP_STEPS]:
        state, _ = program(state, batch, control_word)
    jax.block_until_ready(state)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # a trace keeps a million events at most, and Python has many
    jax.profiler.start_trace(str(directory), profiler_options=options)
    for batch in placed[WARMUP_STEPS:]:
        state, _ = program(state, batch, control_word)
    jax.block_until_ready(state)
    jax.profiler.stop_trace()
    return find_trace(directory)


def _a_step(operation: Operation, total: float) -> dict[str, Any]:
    fields = dataclasses.asdict(operation)
    secs, count = fields.pop("secs"), fields.pop("count")
    return fields | {"ms": 1e3 * secs / NUM_STEPS, "count": count / NUM_STEPS, "share": secs / total}
