"""Environment of the check: chip, driver and versions, and the measured ceilings of matrix products and copies."""

import datetime
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdp import __version__
from jaxdp.hardware.peaks import peak_flops
from jaxdp.report.terminal import memory_size

from .context import Context
from .workload import SIZES

PACKAGES = (
    "jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy",
    "nvidia-cudnn-cu13", "nvidia-cublas", "torch", "triton",
)  # fmt: skip
"""Packages whose versions the report names, if they are installed."""

NUM_BLOCKS, BLOCK = 5, 10


def measure(context: Context) -> None:
    """Reports the environment, and measures the ceilings of the chip."""
    device = jax.devices()[0]
    size = SIZES["tiny" if device.platform == "cpu" else "full"] if context.size == "auto" else SIZES[context.size]
    driver = driver_facts()
    limit = (device.memory_stats() or {}).get("bytes_limit")
    peak = peak_flops(device.device_kind)
    header = {
        "chip": f"{jax.device_count()} x {device.device_kind}",
        "driver": ", ".join(f"{name} {value}" for name, value in driver.items()),
        "versions": f"jaxdp {__version__}, Python {platform.python_version()}, {versions()}",
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "size": size.name,
    }
    context.report(
        "device",
        header["chip"],
        f"published peak {f'{peak / 1e12:.0f} TFLOP/s' if peak else 'not known'}, memory for XLA "
        f"{memory_size(limit) if limit else 'not reported'}",
        header=header, size=size.name, platform=device.platform, kind=device.device_kind, num_devices=jax.device_count(),
        peak_flops=peak, bytes_limit=limit, driver=driver,
    )  # fmt: skip
    _matmul(context, size.matmul_width, peak)
    _copy(context, size.copy_bytes)
    after = driver_facts()
    if "SM clock" in after:
        context.report("clocks after the matrix products", f"SM {after['SM clock']}", f"memory {after['memory clock']}")


def versions() -> str:
    """Returns the versions of the installed packages of `PACKAGES`."""
    installed = {dist.metadata["Name"].lower(): dist.version for dist in importlib.metadata.distributions()}
    return ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed)


def driver_facts() -> dict[str, str]:
    """Returns driver version, memory and clocks of the first NVIDIA device by name; reads only."""
    try:
        import pynvml
    except ImportError:
        return {"NVML": "not installed"}
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        clocks = {"SM clock": pynvml.NVML_CLOCK_SM, "memory clock": pynvml.NVML_CLOCK_MEM}
        return {
            "driver": str(pynvml.nvmlSystemGetDriverVersion()),
            "memory": memory_size(int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)),
            **{name: f"{pynvml.nvmlDeviceGetClockInfo(handle, clock)} MHz" for name, clock in clocks.items()},
            "largest SM clock": f"{pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)} MHz",
            "temperature": f"{pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)} C",
        }
    except pynvml.NVMLError as error:  # no NVIDIA driver, or a query that it does not support
        return {"NVML": str(error)}


def median_secs(dispatch: Callable[[], Any]) -> tuple[float, float]:
    """Returns the median seconds of a call over blocks of calls, and the relative spread of the blocks."""
    jax.block_until_ready([dispatch() for _ in range(3)])
    times = []
    for _ in range(NUM_BLOCKS):
        start = time.perf_counter()
        for _ in range(BLOCK):
            result = dispatch()
        jax.block_until_ready(result)
        times.append((time.perf_counter() - start) / BLOCK)
    median = statistics.median(times)
    return median, (max(times) - min(times)) / median


def _matmul(context: Context, width: int, peak: float | None) -> None:
    """Measures a square bfloat16 matrix product on random data."""
    left, right = (jax.random.normal(jax.random.key(seed), (width, width), jnp.bfloat16) for seed in (0, 1))
    product = jax.jit(jnp.matmul)
    secs, spread = median_secs(lambda: product(left, right))
    flops = 2 * width**3 / secs
    share = f"{flops / peak:.1%} of the published peak, " if peak else ""
    context.report(
        f"matrix product {width}^3, bfloat16", f"{flops / 1e12:,.3g} TFLOP/s", f"{share}spread {spread:.1%}",
        matmul_flops=flops, spread=spread,
    )  # fmt: skip


def _copy(context: Context, num_bytes: int) -> None:
    """Measures one pass over a large array, reading and writing every element."""
    array = jax.random.normal(jax.random.key(2), (num_bytes // 4,), jnp.float32)
    add = jax.jit(lambda array: array + 1)
    secs, spread = median_secs(lambda: add(array))
    rate = 2 * num_bytes / secs
    context.report(
        f"copy of {memory_size(num_bytes)}, read and write", f"{rate / 1e9:,.4g} GB/s", f"spread {spread:.1%}",
        copy_bytes_per_sec=rate, spread=spread,
    )  # fmt: skip
