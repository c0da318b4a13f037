"""Data benchmark (`jaxdp bench --data`): throughput of batches, memory, and speed of data preparation.

It needs neither a model nor a JAX backend.
"""

import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

from jaxdp.data.assembly import load_dataset
from jaxdp.data.dataset import Dataset
from jaxdp.data.loader import make_sampler
from jaxdp.data.pipeline import train_batches
from jaxdp.data.prefetch import Prefetch
from jaxdp.errors import UserError
from jaxdp.run_config import RunConfig
from jaxdp.tasks.make import dataset_spec, make_task

BATCHES_SECS = 5.0
NUM_WAIT_STEPS = 50


def measure_data(config: RunConfig, step_ms: float) -> dict[str, Any]:
    """Measures batch construction and data preparation of a configuration.

    Args:
        config: Configuration of a run; its data is prepared first if necessary.
        step_ms: Simulated step time in milliseconds.

    Returns:
        feed_tokens_per_sec: Positions of host batches per second, from one thread.
        data_wait: Fraction of the time that a loop with one batch every `step_ms` waits for data.
        step_ms: The argument.
        resident_bytes: Memory of this process afterwards (Linux; 0 elsewhere).
        prepare_mb_per_sec: MB of text read, cleaned and tokenized per second, by number of workers; 0 is
            this process alone. Empty for token files.

    Raises:
        UserError: The data is a stream.
    """
    if config.data.source == "hf_stream":
        raise UserError("bench --data measures prepared data, but data.source=hf_stream is not prepared: choose hf.")
    spec = dataset_spec(config)
    data = load_dataset(spec)
    result = {
        "feed_tokens_per_sec": _tokens_per_sec(config, data),
        "data_wait": _wait(config, data, step_ms),
        "step_ms": step_ms,
        "resident_bytes": _resident_bytes(),
    }
    return result | {"prepare_mb_per_sec": _prepare(config, data) if spec.has_texts else {}}


def _batches(config: RunConfig, data: Dataset):
    task = make_task(config, data.vocabularies)
    return train_batches(
        data.train_sequences,
        task.make_batch,
        make_sampler(dataset_spec(config), data),
        partition=config.data.partition,
        num_processes=1,
        process_index=0,
        start_step=0,
    )


def _tokens_per_sec(config: RunConfig, data: Dataset) -> float:
    batches, num_batches = _batches(config, data), 0
    next(batches)
    start = time.perf_counter()
    while time.perf_counter() - start < BATCHES_SECS:
        next(batches)
        num_batches += 1
    tokens = num_batches * config.global_batch_size * config.data.length
    return tokens / (time.perf_counter() - start)


def _wait(config: RunConfig, data: Dataset, step_ms: float) -> float:
    with Prefetch(_batches(config, data), lambda batch: batch, config.data.prefetch_batches) as batches:
        for _ in itertools.islice(batches, config.data.prefetch_batches):
            time.sleep(step_ms / 1e3)
        waited, start = batches.wait_secs, time.perf_counter()
        for _ in itertools.islice(batches, NUM_WAIT_STEPS):
            time.sleep(step_ms / 1e3)
        return (batches.wait_secs - waited) / (time.perf_counter() - start)


def _prepare(config: RunConfig, data: Dataset) -> dict[int, float]:
    """Returns MB of text per second by number of workers, without the training of a tokenizer."""
    speeds = {}
    for num_workers in (0, 1, 2):
        with tempfile.TemporaryDirectory() as directory:
            trial = config.replaced(data={"cache_dir": directory, "num_workers": num_workers})
            start = time.perf_counter()
            load_dataset(dataset_spec(trial), data.vocabularies)
            speeds[num_workers] = data.num_characters / 1e6 / (time.perf_counter() - start)
    return speeds


def _resident_bytes() -> int:
    statm = Path("/proc/self/status")
    if not statm.exists():
        return 0
    [line] = [line for line in statm.read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024
