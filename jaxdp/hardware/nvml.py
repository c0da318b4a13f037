"""NVIDIA Management Library (NVML): utilisation, temperature and power of the GPUs of a process.

Needs the package `nvidia-ml-py` (extra `nvidia`). NVML counts all GPUs of the machine,
CUDA only those of `CUDA_VISIBLE_DEVICES`.
"""

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdp.errors import UserError

MILLIWATTS = 1000.0


def gpu_reader(indices: Sequence[int], visible: str | None = None) -> Callable[[], Mapping[str, float]]:
    """Returns a reader of the mean utilisation, the highest temperature and the summed power of GPUs.

    A value that a GPU does not have, such as the utilisation of a MIG slice, is left out.

    Args:
        indices: Indices of the GPUs among those that CUDA shows to this process.
        visible: Value of CUDA_VISIBLE_DEVICES; None: that of the environment.

    Raises:
        UserError: The package `nvidia-ml-py` is not installed, or the driver refuses.
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        raise UserError(
            "utilisation, temperature and power of the GPUs are not recorded, for the package nvidia-ml-py is not "
            "installed: run pip install 'jaxdp[nvidia]'."
        ) from None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "") if visible is None else visible
    try:
        nvml.nvmlInit()
        handles = [_handle(nvml, index, visible) for index in indices]
    except nvml.NVMLError as error:
        raise UserError(
            f"utilisation, temperature and power of the GPUs are not recorded, for the NVIDIA driver gives no access to them ({error})."
        ) from error
    readers: dict[str, tuple[Callable[[Any], float], Callable[[list[float]], float]]] = {
        "perf/gpu_utilisation": (lambda gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100.0, _mean),
        "perf/gpu_temperature": (lambda gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU), max),
        "perf/gpu_power": (lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / MILLIWATTS, sum),
    }
    supported = {name: read for name, read in readers.items() if _is_supported(nvml, read[0], handles)}

    def read() -> dict[str, float]:
        return {name: float(join([of(gpu) for gpu in handles])) for name, (of, join) in supported.items()}

    return read


def _handle(nvml: Any, index: int, visible: str) -> Any:
    """Returns NVML's handle of a GPU that CUDA has at this index."""
    names = [name.strip() for name in visible.split(",") if name.strip()]
    name = names[index] if names else str(index)
    return nvml.nvmlDeviceGetHandleByIndex(int(name)) if name.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(name)


def _is_supported(nvml: Any, read: Callable[[Any], float], handles: Sequence[Any]) -> bool:
    try:
        for handle in handles:
            read(handle)
    except nvml.NVMLError_NotSupported:
        return False
    return bool(handles)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
