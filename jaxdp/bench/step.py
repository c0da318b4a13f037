"""Step benchmark (`jaxdp bench`): step time, dispatch, data wait, compilation and checkpoint saves.

Timings are measured here and never in a test.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdp.bench import overhead as checks
from jaxdp.checkpoint.retention import Retention
from jaxdp.checkpoint.saving import CheckpointWriter
from jaxdp.config import to_json
from jaxdp.data.prefetch import Prefetch
from jaxdp.hardware.peaks import peak_flops
from jaxdp.parallel.spmd import Program
from jaxdp.run_config import RunConfig
from jaxdp.training.prepared_run import prepare_run
from jaxdp.training.setup import TrainingSetup

WARMUP_STEPS = 10
NUM_SAVES = 5


def measure(config: RunConfig, num_steps: int) -> dict[str, Any]:
    """Measures `num_steps` training steps of a configuration on the devices of this process.

    Returns:
        step_ms: Median time of a step with the data pipeline of training; step_ms_p10_p90 has [p10, p90].
        tokens_per_sec: Positions per step on all devices, divided by the median.
        dispatch_ms: Median processor time of Python to start a step on idle devices.
        data_wait: Fraction of the time spent waiting for batches.
        host_batch_ms: Median time to make and place one host batch with nothing else running.
        save_block_ms: Time that a checkpoint blocks the loop: the first, and the median of the others.
        save_total_ms: Median time until a checkpoint is complete.
        compile_secs, device_bytes, flops_per_step, mfu (if the peak of the device is known).
    """
    setup = _setup(config)
    return measure_program(setup, setup.compile_step(), num_steps)


def measure_program(
    setup: TrainingSetup, program: Program, num_steps: int, num_saves: int = NUM_SAVES
) -> dict[str, Any]:
    """Measures a compiled train step of a setup.

    Args:
        setup: Parts of the run.
        program: Train step, as `TrainingSetup.compile_step` returns it.
        num_steps: Number of measured steps, at least 2.
        num_saves: Number of checkpoints saved, at least 2; 0: saves are not measured.

    Returns:
        The values of `measure`; without saves none that begins with `save_`.
    """
    config = setup.config
    state, control_word = setup.fresh_state(), setup.control_word_maker()(0, 0)
    with Prefetch(setup.loader.batches(0), setup.place, config.data.prefetch_batches) as batches:
        for _ in range(WARMUP_STEPS):
            state, metrics = program(state, next(batches)[0], control_word)
        jax.block_until_ready(metrics)
        waited, start, times, pending = batches.wait_secs, time.perf_counter(), [], None
        for _ in range(num_steps + 1):  # as in the training loop: dispatch, then read the previous step
            mark = time.perf_counter()
            state, metrics = program(state, next(batches)[0], control_word)
            if pending is not None:  # the first iteration has no finished step, and is no sample
                jax.device_get(pending)
                times.append(time.perf_counter() - mark)
            pending = metrics
        jax.block_until_ready(state)
        total, waited = time.perf_counter() - start, batches.wait_secs - waited
        state, dispatch_ms = _dispatch(program, state, batches, control_word, min(num_steps, 50))
    step_secs = statistics.median(times)
    deciles = statistics.quantiles(times, n=10, method="inclusive")  # within the samples
    tokens = config.global_batch_size * config.data.length
    peak = peak_flops(setup.topology.kind)
    result = {
        "devices": setup.topology.num_devices,
        "device_kind": setup.topology.kind,
        "steps": num_steps,
        "step_ms": 1e3 * step_secs,
        "step_ms_p10_p90": [1e3 * deciles[0], 1e3 * deciles[-1]],
        "tokens_per_sec": tokens / step_secs,
        "dispatch_ms": dispatch_ms,
        "data_wait": waited / total,
        "host_batch_ms": _host_batch(setup),
        "compile_secs": program.compile_secs,
        "device_bytes": program.device_bytes,
        "flops_per_step": setup.flops_per_step,
    }
    if peak:
        result["mfu"] = setup.flops_per_step / step_secs / peak / setup.topology.num_devices
    return result | _saving(setup, state, num_saves) if num_saves else result


def measure_checks(config: RunConfig, num_steps: int) -> dict[str, Any]:
    """Measures the overhead of the runtime checks; see `bench.overhead`."""
    return checks.measure_checks(_setup(config), num_steps)


def _setup(config: RunConfig) -> TrainingSetup:
    """Returns the training setup of a configuration, with its data."""
    return TrainingSetup(prepare_run(config))


def _dispatch(program, state, batches, control_word, num_steps: int):
    """Returns the state, and the median dispatch time in milliseconds with idle devices and the batch in place.

    It is processor time of this thread: fake CPU devices start at once and compete for its core.
    """
    times = []
    for _ in range(num_steps):
        batch = next(batches)[0]
        jax.block_until_ready((state, batch))
        start = time.thread_time()
        state, _ = program(state, batch, control_word)
        times.append(time.thread_time() - start)
    return state, 1e3 * statistics.median(times)


def _host_batch(setup: TrainingSetup, num_batches: int = 50) -> float:
    """Returns the median milliseconds to make and place a batch with nothing else running."""
    batches, times = setup.loader.batches(0), []
    for _ in range(num_batches):
        start = time.perf_counter()
        jax.block_until_ready(setup.place(next(batches))[0])
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _saving(setup: TrainingSetup, state, num_saves: int) -> dict[str, Any]:
    """Measures saves into a temporary directory; none overlaps a step."""
    blocked, whole = [], []
    with tempfile.TemporaryDirectory(prefix="jaxdp_bench_") as directory:
        writer = CheckpointWriter(
            Path(directory),
            Retention(),
            setup.placement.portable,
            async_save=True,
            layout=setup.placement.portable_layout,
            to_portable=setup.placement.to_portable,
        )
        for step in range(num_saves):
            start = time.perf_counter()
            writer.save(step, state, setup.loader.data_state(step), to_json(setup.config), {})
            blocked.append(time.perf_counter() - start)
            writer.wait()
            whole.append(time.perf_counter() - start)
        writer.close()
    return {
        "save_block_ms": [1e3 * blocked[0], 1e3 * statistics.median(blocked[1:])],
        "save_total_ms": 1e3 * statistics.median(whole[1:]),
    }


def measure_device_counts(
    config_file: str, overrides: Sequence[str], num_steps: int, counts: Sequence[int]
) -> list[dict[str, Any]]:
    """Runs `measure` for several numbers of fake CPU devices, each in its own process.

    Raises:
        RuntimeError: A process failed; its errors are on stderr.
    """
    results = []
    for count in counts:
        command = [
            sys.executable, "-m", "jaxdp", "bench", f"--config={config_file}", f"--steps={num_steps}",
            f"--cpu_devices={count}", "--json", *overrides,
        ]  # fmt: skip
        finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        if finished.returncode:
            raise RuntimeError(f"the measurement on {count} devices failed with exit code {finished.returncode}")
        results.append(json.loads(finished.stdout))
    return results
