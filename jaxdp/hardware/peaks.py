"""Peak FLOP/s of accelerators, for model FLOPs utilisation (MFU).

The values are the published dense bfloat16 throughput of one JAX device. MFU is
always relative to this peak, also in float32, so it is the share of the chip that
a run uses.
"""

import re

_PEAKS = (
    (r"GB200|B200", 2.25e15),
    (r"H100 PCIe", 756e12),
    (r"H100 NVL", 835e12),
    (r"GH200|H100|H200|H800", 989e12),
    (r"\bA100\b|\bA800\b", 312e12),
    (r"L40S", 362e12),
    (r"RTX 4090", 165e12),
    (r"RTX 3090", 71e12),
    (r"\bA10\b|A10G", 125e12),
    (r"\bL4\b", 121e12),
    (r"V100", 125e12),
    (r"Tesla T4", 65e12),
    (r"TPU7x|TPU v7", 1153e12),
    (r"TPU v6", 918e12),
    (r"TPU v5p|TPU v5$", 459e12),
    (r"TPU v5 ?lite|TPU v5e", 197e12),
    (r"TPU v4 lite", 138e12),
    (r"TPU v4", 275e12),
    (r"TPU v3", 61.5e12),
    (r"TPU v2", 22.5e12),
)


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak FLOP/s of one device of a `jax.Device.device_kind`; None if unknown."""
    for pattern, peak in _PEAKS:
        if re.search(pattern, device_kind):
            return peak
    return None
