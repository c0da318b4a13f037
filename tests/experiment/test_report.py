"""The report before step 1, line by line."""

from types import SimpleNamespace

import jax
import pytest

from jaxdp.experiment import report
from jaxdp.model import model_config
from jaxdp.parallel.devices import BatchShape, Topology

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
        (BatchShape(480, 8, 12, 5), "480 rows = 8 devices x 5 microbatches x 12 rows; 491,520 tokens a step"),
        (BatchShape(1, 1, 1, 1), "1 row = 1 device x 1 microbatch x 1 row; 1,024 tokens a step"),
    ],
)
def test_batch(shape, line):
    assert report.batch_line(shape, 1024) == line


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
