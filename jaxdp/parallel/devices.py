"""Devices of a run, and division of the global batch among them.

`configure_backend` selects the devices of a process in which JAX has not started; after
that the existing devices are used. `init_devices` starts the backend.
"""

import dataclasses
import os
import re
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdp.cache_home import cache_home, why_unwritable
from jaxdp.errors import UserError
from jaxdp.hardware.cores import num_cores
from jaxdp.hardware.host_memory import check_address_space
from jaxdp.report.terminal import print_status

AXIS = "devices"
"""Name of the data-parallel axis in every SPMD program."""

DETERMINISTIC_FLAG = "xla_gpu_deterministic_ops"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices of all processes, in the order in which examples are assigned to them."""

    devices: tuple
    num_processes: int
    process_index: int

    @property
    def num_devices(self) -> int:
        """Number of devices of all processes."""
        return len(self.devices)

    @property
    def num_local_devices(self) -> int:
        """Number of devices of this process."""
        return self.num_devices // self.num_processes

    @property
    def mesh(self) -> Mesh:
        """One-dimensional mesh of all devices."""
        return Mesh(np.array(self.devices), (AXIS,))

    @property
    def replicated(self) -> NamedSharding:
        """Sharding of replicated arrays, such as train state and metrics."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def per_device(self) -> NamedSharding:
        """Sharding of `[num_devices, ...]` arrays: entry d on device d."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    @property
    def kind(self) -> str:
        """Device kind as JAX names it, e.g. "NVIDIA H100 80GB HBM3"."""
        return self.devices[0].device_kind

    @property
    def platform(self) -> str:
        """Platform of the devices: cpu, gpu or tpu."""
        return self.devices[0].platform


def divisors_up_to(number: int, limit: int) -> list[int]:
    """Returns every count of devices up to `limit` that divides `number`."""
    return [count for count in range(1, min(number, limit) + 1) if number % count == 0]


def _setting(name: str) -> Any:
    """Returns a setting of JAX, which defines the attributes of its configuration at run time."""
    return getattr(jax.config, name)


def backend_has_started() -> bool:
    """Checks whether JAX has created its devices, after which their number is final."""
    count = _setting("jax_num_cpu_devices")
    try:
        jax.config.update("jax_num_cpu_devices", count + 1)  # refused once there are devices
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", count)
    return False


def configure_backend(cpu_devices: int | None, default_cpu_devices: int, *, deterministic: bool = False) -> None:
    """Selects the platform before the first array exists, and configures the compilation cache.

    Compiled programs are cached in JAX_COMPILATION_CACHE_DIR or ~/.cache/jaxdp/xla. If JAX has
    already started in this process, by an earlier call or by other code, its devices are used.

    Args:
        cpu_devices: Number of CPU devices to fake, without accelerators; None: the
            accelerators, or `default_cpu_devices` if there are none.
        default_cpu_devices: Number of CPU devices without accelerators; see `fitting_cpu_devices`.
        deterministic: Whether GPUs use only kernels that are bitwise reproducible.

    Raises:
        UserError: `cpu_devices` is not positive, or JAX has started with other devices or
            flags, or cannot compile.
    """
    check_address_space()
    check_settings()
    if cpu_devices is not None and cpu_devices < 1:
        raise UserError(f"parallel.cpu_devices={cpu_devices} is not a number of devices; give 1 or more.")
    _configure_compilation_cache()
    if backend_has_started():
        _check_started_backend(cpu_devices, deterministic)
        return
    if deterministic:
        flags = os.environ.get("XLA_FLAGS", "")
        if DETERMINISTIC_FLAG not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --{DETERMINISTIC_FLAG}=true".strip()
    if cpu_devices is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    elif not _count_forced_outside():
        jax.config.update("jax_num_cpu_devices", default_cpu_devices)


def _configure_compilation_cache() -> None:
    """Configures the compilation cache; reports once if its directory cannot be written."""
    given = _setting("jax_compilation_cache_dir")
    if not given:
        jax.config.update("jax_compilation_cache_dir", str(cache_home() / "xla"))
    elif "://" not in given and (why := why_unwritable(given)):
        print_status(f"compiled programs are not kept: JAX_COMPILATION_CACHE_DIR={given} cannot be written ({why})")
        warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry")


def check_settings() -> None:
    """Raises UserError for JAX settings that jaxdp does not support."""
    if _setting("jax_disable_jit"):
        raise UserError(
            "JAX_DISABLE_JIT is set (jax_disable_jit), but jaxdp compiles its programs ahead of time and cannot run "
            "without jit; unset it."
        )
    for name in ("jax_transfer_guard", "jax_transfer_guard_host_to_device", "jax_transfer_guard_device_to_host"):
        value = getattr(jax.config, name, None) or ""
        if value.startswith("disallow"):
            raise UserError(
                f"{name.upper()}={value} ({name}) is set, but jaxdp moves batches, checkpoints and metrics between host and "
                "devices; unset it."
            )


def _check_started_backend(cpu_devices: int | None, deterministic: bool) -> None:
    """Raises UserError if the existing devices are not the requested ones."""
    devices = jax.local_devices()
    kinds = [device.platform for device in devices]
    if cpu_devices is not None and kinds != ["cpu"] * cpu_devices:
        raise UserError(
            f"parallel.cpu_devices={cpu_devices} (--cpu_devices, cpu_devices=) is requested, but JAX has already started "
            f"in this process with {_counted(kinds)}, which cannot be changed: leave the request out to use those, or "
            "make it before anything else uses JAX."
        )
    if deterministic and "gpu" in kinds and DETERMINISTIC_FLAG not in os.environ.get("XLA_FLAGS", ""):
        raise UserError(
            "parallel.deterministic=True needs a flag that XLA reads at its start, but JAX has already started in this "
            f"process: set XLA_FLAGS=--{DETERMINISTIC_FLAG}=true before."
        )


def fitting_cpu_devices(num_rows: int) -> int:
    """Returns the largest count of CPU devices, up to the number of cores, that divides `num_rows`.

    XLA uses several cores well only through several devices: on two cores a step of
    nanoGPT's CPU recipe takes 46 ms with one device and 27.5 ms with two.
    """
    return max(divisors_up_to(num_rows, num_cores()), default=1)


def _count_forced_outside() -> bool:
    """Returns True if the environment sets the number of CPU devices."""
    return "JAX_NUM_CPU_DEVICES" in os.environ or bool(
        re.search(r"xla_force_host_platform_device_count", os.environ.get("XLA_FLAGS", ""))
    )


def init_devices() -> Topology:
    """Starts the backend and returns the devices of all processes.

    Devices are ordered by process and then by id, so that the examples of a process are
    contiguous in `[num_devices, device_batch, ...]`.

    Raises:
        UserError: The requested platform is not available.
    """
    try:
        devices = jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts where a plugin is not installed
        asked = os.environ.get("JAX_PLATFORMS", "")
        why = " ".join(str(error).split()).rstrip(".") or f"JAX_PLATFORMS={asked} asks for what is not installed"
        raise UserError(
            f"JAX finds no device to train on: {why}. "
            "Unset JAX_PLATFORMS, or install jax for this hardware (bash launch/local.sh does)."
        ) from error
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Topology(tuple(devices), jax.process_count(), jax.process_index())


def fitting_topology(topology: Topology, num_rows: int) -> Topology:
    """Returns the devices that share a batch of `num_rows` examples when no number is requested.

    Of CPU devices that an earlier call started for another batch, the largest count that
    divides the examples is used; otherwise all devices.
    """
    if topology.platform != "cpu" or topology.num_processes > 1 or _count_forced_outside():
        return topology
    count = max(divisors_up_to(num_rows, topology.num_devices), default=topology.num_devices)
    return dataclasses.replace(topology, devices=topology.devices[:count])


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """Division of a batch: global_batch_size = num_devices x microbatch_size x num_microbatches."""

    global_batch_size: int
    num_devices: int
    microbatch_size: int
    num_microbatches: int

    @property
    def device_batch_size(self) -> int:
        """Number of examples of one device."""
        return self.microbatch_size * self.num_microbatches


def divide_batch(global_batch_size: int, microbatch_size: int | None, num_devices: int) -> BatchShape:
    """Divides the examples of one update among devices and microbatches.

    Raises:
        UserError: The sizes do not divide evenly; the message has those that do.
    """
    if global_batch_size < 1:
        raise UserError(f"global_batch_size={global_batch_size} must be at least 1.")
    if global_batch_size % num_devices:
        fitting = divisors_up_to(global_batch_size, max(num_devices, num_cores()))
        lower = global_batch_size // num_devices * num_devices
        sizes = f"{lower} or {lower + num_devices}" if lower else f"{num_devices}"
        raise UserError(
            f"global_batch_size={global_batch_size} does not divide over {num_devices} devices: "
            f"use {_listed(fitting)} devices (on CPU --cpu_devices=N), "
            f"or a global_batch_size of {sizes}."
        )
    device_batch_size = global_batch_size // num_devices
    microbatch_size = device_batch_size if microbatch_size is None else microbatch_size
    if microbatch_size < 1 or device_batch_size % microbatch_size:
        raise UserError(
            f"microbatch_size={microbatch_size} does not divide the {device_batch_size} examples that each "
            f"of {num_devices} devices holds; use {_listed(divisors_up_to(device_batch_size, device_batch_size))}."
        )
    return BatchShape(global_batch_size, num_devices, microbatch_size, device_batch_size // microbatch_size)


def check_device_count(requested: int | None, topology: Topology) -> None:
    """Raises UserError if JAX did not create the requested number of CPU devices."""
    if requested is not None and topology.num_local_devices != requested:
        raise UserError(
            f"parallel.cpu_devices={requested} is requested, but JAX made {topology.num_local_devices}: "
            "JAX_NUM_CPU_DEVICES or XLA_FLAGS says otherwise; unset them."
        )


def check_same_devices(topology: Topology) -> None:
    """Checks that all processes have the same kind and number of devices.

    Raises:
        UserError: Kinds or numbers of devices differ; raised on all processes.
    """
    by_process = [
        [device.device_kind for device in topology.devices if device.process_index == process]
        for process in range(topology.num_processes)
    ]
    for process, kinds in enumerate(by_process):
        if kinds != by_process[0]:
            raise UserError(
                f"process 0 has {_counted(by_process[0])}, process {process} has {_counted(kinds)}; "
                "all must have the same number of the same kind of devices."
            )


def _counted(kinds: Sequence[str]) -> str:
    return " and ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)) or "no device"


def _listed(numbers: list[int]) -> str:
    return " or ".join(filter(None, [", ".join(map(str, numbers[:-1])), str(numbers[-1])]))
