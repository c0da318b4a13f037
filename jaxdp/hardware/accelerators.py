"""Published values of accelerators: memory, memory bandwidth, link bandwidth and description for the compiler.

One entry is one JAX device: half a chip on TPU v7x, a whole chip elsewhere. The peak FLOP/s are in
`jaxdp.hardware.peaks`, by `device_kind`.

Sources:
    TPU: Google Cloud documentation, "TPU v4" to "TPU7x" system architecture, and "How to Think About TPUs"
        (jax-ml.github.io/scaling-book/tpus), whose link bandwidths are used: one axis of the torus, both directions.
    TPU `usable_bytes`: the limit in the message with which libtpu 0.0.52 refuses a program that does not fit.
    NVIDIA: data sheets of A100 80GB SXM, H100 SXM, H200 SXM, HGX B200, L4 and GeForce RTX 4090. Links: NVLink, one
        direction, or PCIe 4.0 x16. Cores, caches and clocks: the data sheets, and the specifications of XLA
        (xla/backends/gpu/target_config/specs of openxla/xla) where it has the device.
"""

import dataclasses

from jaxdp.hardware.peaks import peak_flops

_GIB, _GB = 2**30, 10**9


@dataclasses.dataclass(frozen=True, kw_only=True)
class GpuCores:
    """Values of an NVIDIA GPU that XLA's compiler reads.

    Attributes:
        compute_capability: (major, minor).
        count: Number of streaming multiprocessors.
        fpus: Float32 units of one.
        threads: Maximum number of resident threads of one.
        shared_bytes: Shared memory of one.
        l2_bytes: L2 cache.
        clock_ghz: Boost clock.
    """

    compute_capability: tuple[int, int]
    count: int
    fpus: int
    threads: int
    shared_bytes: int
    l2_bytes: int
    clock_ghz: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One JAX device of a kind.

    Attributes:
        platform: Platform of JAX: tpu or gpu.
        device_kind: Name that JAX gives the device.
        memory_bytes: Memory of the device.
        usable_bytes: Memory that a program may use.
        memory_bandwidth: Bytes/s of the memory.
        link_bandwidth: Bytes/s that one device sends to others of its slice or server.
        network_bandwidth: Bytes/s that it sends to other slices or servers; an assumption, see `NETWORK`.
        hop_secs: Latency between neighbours; an assumption.
        devices_per_chip: JAX devices of one chip.
        topology: Prefix of the topology name of libtpu; empty for GPUs.
        dimensions: Number of axes of the torus; 0 for GPUs, which are counted.
        max_in_server: Devices that the links connect: the largest slice, or a server.
        cores: Description for XLA's GPU compiler; None for TPUs.
    """

    platform: str
    device_kind: str
    memory_bytes: int
    usable_bytes: int
    memory_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    hop_secs: float
    devices_per_chip: int = 1
    topology: str = ""
    dimensions: int = 0
    max_in_server: int = 8
    cores: GpuCores | None = None

    @property
    def peak(self) -> float:
        """Published dense bfloat16 FLOP/s of the device."""
        peak = peak_flops(self.device_kind)
        assert peak is not None, f"peaks.py has no {self.device_kind}"
        return peak


NETWORK = {"tpu": 6.25, "nvlink": 50.0, "pcie": 3.0}
"""GB/s between slices or servers for each device, assumed: 200 Gb/s for a host of 4 TPUs; 400 Gb/s for each GPU with NVLink, as
in DGX servers; 200 Gb/s for a server of 8 GPUs on PCIe."""


def _tpu(kind: str, topology: str, dimensions: int, gib: float, usable: float, memory: float, link: float, **others):
    return Accelerator(
        platform="tpu", device_kind=kind, topology=topology, dimensions=dimensions, memory_bytes=int(gib * _GIB),
        usable_bytes=int(usable * _GIB), memory_bandwidth=memory * _GB, link_bandwidth=link * _GB,
        network_bandwidth=NETWORK["tpu"] * _GB, hop_secs=1e-6, **others,
    )  # fmt: skip


GPU_MEMORY_FRACTION = 0.75
"""Share of a GPU's memory that JAX takes by default (XLA_PYTHON_CLIENT_MEM_FRACTION)."""


def _gpu(kind: str, memory_bytes: int, memory: float, link: float, cores: GpuCores, **others):
    return Accelerator(
        platform="gpu", device_kind=kind, memory_bytes=memory_bytes, usable_bytes=memory_bytes, cores=cores,
        memory_bandwidth=memory * _GB, link_bandwidth=link * _GB, hop_secs=4e-6,
        network_bandwidth=NETWORK["nvlink" if link > 100 else "pcie"] * _GB, **others,
    )  # fmt: skip


_AMPERE = GpuCores(
    compute_capability=(8, 0),
    count=108,
    fpus=64,
    threads=2048,
    shared_bytes=167936,
    l2_bytes=40 * 2**20,
    clock_ghz=1.41,
)
_HOPPER = GpuCores(
    compute_capability=(9, 0),
    count=132,
    fpus=128,
    threads=2048,
    shared_bytes=233472,
    l2_bytes=50 * 2**20,
    clock_ghz=1.98,
)
_BLACKWELL = GpuCores(
    compute_capability=(10, 0),
    count=148,
    fpus=128,
    threads=2048,
    shared_bytes=233472,
    l2_bytes=132644864,
    clock_ghz=1.965,
)
_ADA = GpuCores(
    compute_capability=(8, 9),
    count=58,
    fpus=128,
    threads=1536,
    shared_bytes=102400,
    l2_bytes=48 * 2**20,
    clock_ghz=2.04,
)
_ADA_4090 = dataclasses.replace(_ADA, count=128, l2_bytes=72 * 2**20, clock_ghz=2.52)

ACCELERATORS = {
    "v4": _tpu("TPU v4", "v4", 3, 32, 30.75, 1228, 90, max_in_server=4096),
    "v5e": _tpu("TPU v5 lite", "v5e", 2, 16, 15.75, 819, 90, max_in_server=256),
    "v5p": _tpu("TPU v5", "v5p", 3, 95.75, 95.73, 2765, 180, max_in_server=8960),
    "v6e": _tpu("TPU v6 lite", "v6e", 2, 32, 31.24, 1640, 180, max_in_server=256),
    # A chip has 192 GiB, 7,380 GB/s and links of 200 GB/s an axis; it is two devices.
    "v7x": _tpu("TPU7x", "tpu7x", 3, 96, 94.74, 3690, 100, devices_per_chip=2, max_in_server=18432),
    "a100": _gpu("NVIDIA A100-SXM4-80GB", 85100068864, 2039, 300, _AMPERE),
    "h100": _gpu("NVIDIA H100 80GB HBM3", 84942979072, 3352, 450, _HOPPER),
    "h200": _gpu("NVIDIA H200", 151397597184, 4800, 450, _HOPPER),
    "b200": _gpu("NVIDIA B200", 191514411008, 7672, 900, _BLACKWELL),
    "l4": _gpu("NVIDIA L4", 23034 * 2**20, 300, 32, _ADA),
    "rtx4090": _gpu("NVIDIA GeForce RTX 4090", 24564 * 2**20, 1008, 32, _ADA_4090),
}  # fmt: skip
"""Accelerators by the name that targets have on the command line."""


def published(device_kind: str) -> Accelerator | None:
    """Returns the accelerator of a `jax.Device.device_kind`; None if nothing is published of it here."""
    return next((each for each in ACCELERATORS.values() if each.device_kind == device_kind), None)
