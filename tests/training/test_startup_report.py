"""The report before step 1, line by line."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jaxdp.model import model_config
from jaxdp.optim import OptimizerConfig
from jaxdp.parallel.devices import BatchShape, Topology
from jaxdp.parallel.strategies.pmean import Pmean
from jaxdp.parallel.strategies.zero import Zero
from jaxdp.training import startup_report as report

GIB = 2**30


class Device(SimpleNamespace):
    """What the report asks of a device."""

    def memory_stats(self):
        return self.stats


def topology(num_devices=8, num_processes=1, platform="gpu", kind="NVIDIA H200", stats=None):
    device = Device(platform=platform, device_kind=kind, stats=stats)
    return Topology((device,) * num_devices, num_processes, 0)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (topology(8), f"8 x NVIDIA H200 (1 process), jax {jax.__version__}"),
        (topology(16, 2), f"16 x NVIDIA H200 (2 processes), jax {jax.__version__}"),
    ],
)
def test_devices(found, line):
    assert report.devices_line(found) == line


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({}, "gpt2: 124,439,808 parameters; 12 layers, 12 heads, 768 wide, context 1024, bfloat16"),
        ({"num_layers": 1, "num_kv_heads": 1}, "1 layer, 12 heads on 1 key-value head, 768 wide"),
        ({"num_kv_heads": 4}, "12 heads on 4 key-value heads"),
    ],
)
def test_model(overrides, line):
    config = model_config("gpt2", {"dtype": "bfloat16"} | overrides, vocab_size=50257, max_length=1024)
    assert line in report.model_line(config, 124_439_808, "gpt2")


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        (BatchShape(480, 8, 12, 5), "480 sequences = 8 devices x 5 microbatches x 12 sequences; 491,520 tokens a step"),
        (BatchShape(1, 1, 1, 1), "1 sequence = 1 device x 1 microbatch x 1 sequence; 1,024 tokens a step"),
    ],
)
def test_batch(shape, line):
    assert report.batch_line(shape, 1024) == line


def optim(**changes):
    values = {
        "name": "adamw", "learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 10, "end_learning_rate": 0.0,
        "weight_decay": 0.1, "b1": 0.9, "b2": 0.95, "eps": 1e-8, "momentum": 0.9, "clip_norm": 1.0, "total_steps": 200,
    }  # fmt: skip
    return OptimizerConfig(**values | changes)


def test_schedule():
    assert (
        report.schedule_line(optim()) == "200 steps; adamw, cosine learning rate, peak 0.001 after 10 steps of warm-up"
    )
    assert report.schedule_line(optim(warmup_steps=0)) == "200 steps; adamw, cosine learning rate, peak 0.001"


def test_a_warm_up_that_is_longer_than_the_run_is_named():
    line = report.schedule_line(optim(warmup_steps=399))
    # The last of 200 updates has the rate 1e-3 * 200 / 400.
    assert line.endswith(
        "after 399 steps of warm-up, which the run does not reach: it ends at 0.0005; lower optim.warmup_steps=399 or train longer"
    )
    assert "does not reach" in report.schedule_line(optim(warmup_steps=200))
    assert "does not reach" not in report.schedule_line(optim(warmup_steps=199))


def test_a_run_that_is_extended_says_what_its_learning_rate_does():
    sentence = report.schedule_change(200, optim(), optim(total_steps=300))
    before = 0.5e-3 * (1 + math.cos(math.pi * 189 / 190))
    after = 0.5e-3 * (1 + math.cos(math.pi * 190 / 290))
    assert sentence.startswith("total_steps changed from 200 to 300, which changes the cosine schedule: ")
    assert f"the learning rate was {before:.3g} at step 200 and is {after:.3g} at step 201. " in sentence
    assert "optim.schedule=constant" in sentence and "wsd" in sentence


@pytest.mark.parametrize(
    ("step", "old", "new", "is_said"),
    [
        (200, {}, {}, False),
        (200, {"schedule": "constant"}, {"schedule": "constant", "total_steps": 300}, False),
        (100, {"schedule": "wsd"}, {"schedule": "wsd", "total_steps": 300}, False),
        (190, {"schedule": "wsd"}, {"schedule": "wsd", "total_steps": 300}, True),
        (100, {"schedule": "linear"}, {"schedule": "linear", "total_steps": 150}, True),
        (5, {}, {"total_steps": 300}, False),
    ],
)
def test_only_a_schedule_that_changes_is_worth_a_sentence(step, old, new, is_said):
    assert bool(report.schedule_change(step, optim(**old), optim(**new))) == is_said


@pytest.mark.parametrize(
    ("stats", "line"),
    [
        ({"bytes_limit": 140 * GIB}, "1.5 GiB a device of 140.0 GiB"),
        ({}, "1.5 GiB a device of unknown size"),
        (None, "1.5 GiB a device of unknown size"),
    ],
)
def test_memory_of_an_accelerator(stats, line):
    assert report.memory_line(3 * GIB // 2, topology(stats=stats)) == line


def test_memory_of_cpu_devices_is_shared():
    assert report.memory_of(topology(4, platform="cpu")).endswith(" host memory, shared by 4")


def test_compute():
    assert report.compute_line(2.5e15, 12.34) == "2.5 PFLOP a step; compiled in 12.3 s"


def test_sharding_counts_what_stays_replicated():
    shapes = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in
              {"table": (128, 64), "odd": (67, 65), "scale": (64,)}.items()}  # fmt: skip
    line = Zero(8, shapes, shard_params=True).describe()
    assert line == (
        "zero3: parameters and optimizer state in 8 shards; 2 of 3 arrays, with 35.04% of the parameters, "
        "stay replicated: they are small, or no axis divides"
    )
    assert Pmean(8).describe() == ""
