"""Topologies of targets: compile-only devices of TPU slices and NVIDIA servers, or the devices of this machine."""

import os
from collections.abc import Mapping

import jax
from jax.experimental import topologies

from jaxdp.errors import UserError
from jaxdp.hardware.accelerators import GPU_MEMORY_FRACTION, Accelerator
from jaxdp.parallel.devices import (
    Topology,
    check_device_count,
    configure_backend,
    fitting_cpu_devices,
    fitting_topology,
    init_devices,
)
from jaxdp.plan.targets import Target
from jaxdp.run_config import RunConfig
from jaxdp.training.device_memory import local_limit

CHIP_CONFIGURATIONS = {"v4": "megacore"}
"""Kind of TPU -> configuration in which JAX sees one device a chip, where it is not the default."""


def environment_for(target: Target) -> Mapping[str, str]:
    """Returns the environment variables with which a process compiles for a target."""
    if target.accelerator is None:
        return {}
    if target.accelerator.platform == "tpu":
        return {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",  # libtpu would wait for the metadata server of a cloud machine
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # compiling uses no TPU that processes would have to share
        }
    # Choosing kernels by timing them needs the device.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "3"}


def topology_of(target: Target, config: RunConfig) -> Topology:
    """Returns the devices of a target; those of this machine start the backend.

    Raises:
        UserError: The compiler knows no such slice, or this machine has other devices than requested.
    """
    accelerator = target.accelerator
    if accelerator is None:
        return _here(config)
    if accelerator.platform == "gpu":
        described = topologies.get_topology_desc(
            accelerator.device_kind, "cuda", target_config=gpu_description(accelerator), topology=f"1x1x{target.shape[0]}"
        )  # fmt: skip
        return Topology(tuple(described.devices), num_processes=1, process_index=0)
    kind, _, shape = target.text.partition(":")
    options = {"chip_config_name": CHIP_CONFIGURATIONS[kind]} if kind in CHIP_CONFIGURATIONS else {}
    name = f"{accelerator.topology}:{shape}"
    try:
        described = topologies.get_topology_desc(topology_name=name, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        if "INVALID_ARGUMENT" not in str(error):
            raise
        why = " ".join(str(error).split()).removeprefix("INVALID_ARGUMENT: ")
        raise UserError(f"the TPU compiler knows no slice {target.text}: {why}.") from error
    return Topology(tuple(described.devices), num_processes=1, process_index=0)


def _here(config: RunConfig) -> Topology:
    configure_backend(
        config.parallel.cpu_devices,
        fitting_cpu_devices(config.global_batch_size),
        deterministic=config.parallel.deterministic,
    )
    topology = init_devices()
    if config.parallel.cpu_devices is None:
        topology = fitting_topology(topology, config.global_batch_size)
    check_device_count(config.parallel.cpu_devices, topology)
    return topology


def device_limit(target: Target, topology: Topology) -> tuple[int, str]:
    """Returns the bytes that a program may use on one device, and a sentence of where the number comes from."""
    accelerator = target.accelerator
    if accelerator is not None and accelerator.platform == "tpu":
        return accelerator.usable_bytes, f"the TPU compiler accepts programs of up to this size on {target.text}"
    if accelerator is not None:
        fraction = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") or GPU_MEMORY_FRACTION)
        source = f"JAX takes {fraction:.0%} of a GPU's memory (XLA_PYTHON_CLIENT_MEM_FRACTION={fraction:g})"
        return int(accelerator.usable_bytes * fraction), source
    return local_limit(topology)


def gpu_description(accelerator: Accelerator) -> str:
    """Returns the description of a GPU for XLA's compiler, a text proto."""
    cores = accelerator.cores
    assert cores is not None, "a GPU has cores"
    major, minor = cores.compute_capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {cores.shared_bytes} threads_per_core_limit: {cores.threads} core_count: {cores.count}
  fpus_per_core: {cores.fpus} block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {int(accelerator.memory_bandwidth)} l2_cache_size: {cores.l2_bytes} clock_rate_ghz: {cores.clock_ghz}
  device_memory_size: {accelerator.memory_bytes} shared_memory_per_block_optin: {cores.shared_bytes - 1024}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "{accelerator.device_kind}"
"""
