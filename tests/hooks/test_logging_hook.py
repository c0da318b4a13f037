"""Lines of metrics, and speeds over the steps between them."""

import pytest

from jaxdp.data.prefetch import QueueState
from jaxdp.hooks.every import Every
from jaxdp.hooks.logging import Logging
from jaxdp.hooks.noise_scale import NoiseScale
from jaxdp.metrics import RESOURCE_METRICS, SAVE_METRICS
from jaxdp.parallel.control_word import host_control_word
from jaxdp.trainer import StepInfo


def info(step, *, secs=0.5, wait=0.1, ready=2, tokens=100.0, **metrics):
    values = {"loss": step + 0.25, "grad_norm": 2.0, "learning_rate": 1e-3, "skipped": 0}
    return StepInfo(step, values | metrics | {"tokens": tokens}, secs, QueueState(4, ready, wait))


def lines_of(infos, *, every=2, **options):
    options = {"flops_per_step": 1e6, "peak_flops": None, "batch_hash": False} | options
    lines = []
    hook = Logging(Every(every, 5), lambda step, values: lines.append((step, values)), **options)
    for step_info in infos:
        hook.on_step(step_info)
    return lines


def test_every_number_of_a_line_is_declared():
    sampled = dict.fromkeys((spec.full_name for spec in (*RESOURCE_METRICS, *SAVE_METRICS)), 1.0)
    options = {
        "peak_flops": 1e9,
        "bytes_on_wire": 7.0,
        "further": lambda first, last: sampled,
        "noise_scale": NoiseScale(4, 32),
    }
    [(_, line)] = lines_of([info(1, device_squares=5.0)], every=1, **options)
    assert line["train/noise_scale"] == options["noise_scale"].value > 0
    assert set(line) == {spec.full_name for spec in Logging.metrics}


def test_a_line_has_the_numbers_of_its_step_and_the_speeds_since_the_last_line():
    infos = [
        info(1, secs=1.0, wait=0.5, ready=0, tokens=100.0),
        info(2, secs=3.0, wait=0.5, ready=1, tokens=300.0, skipped=1),
        info(3, secs=0.5, wait=0.0, ready=4, tokens=50.0),
        info(4, secs=0.5, wait=0.25, ready=2, tokens=0.0),
    ]
    assert lines_of(infos) == [
        (2, {
            "train/loss": 2.25, "train/grad_norm": 2.0, "train/learning_rate": 1e-3, "train/skipped": 1,
            "perf/step_secs": 2.0, "perf/tokens_per_sec": 100.0, "perf/data_wait": 0.25,
            "perf/prefetch_ready": 0.5, "perf/prefetch_depth": 4,
        }),
        (4, {
            "train/loss": 4.25, "train/grad_norm": 2.0, "train/learning_rate": 1e-3, "train/skipped": 0,
            "perf/step_secs": 0.5, "perf/tokens_per_sec": 50.0, "perf/data_wait": 0.25,
            "perf/prefetch_ready": 3.0, "perf/prefetch_depth": 4,
        }),
    ]  # fmt: skip


def test_the_last_step_has_a_line():
    assert [step for step, _ in lines_of([info(step) for step in range(1, 6)])] == [2, 4, 5]


def test_utilisation_is_against_the_peak_of_all_devices():
    [(_, line)] = lines_of([info(1, secs=2.0), info(2, secs=2.0)], flops_per_step=3e12, peak_flops=10e12)
    assert line["perf/mfu"] == pytest.approx(0.15)


def test_the_hash_of_the_batch_is_that_of_the_logged_step():
    hashes = [host_control_word(1, 0, number)["batch_hash"][0] for number in (5, 2**63 + 11)]
    infos = [info(step, batch_hash=batch_hash) for step, batch_hash in enumerate(hashes, start=1)]
    [(_, line)] = lines_of(infos, batch_hash=True)
    assert line["data/batch_hash"] == "800000000000000b"
    [(_, line)] = lines_of(infos)
    assert "data/batch_hash" not in line
