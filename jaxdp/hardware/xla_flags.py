"""Recommended XLA flags by platform, and what the user's own flags make of them.

jaxdp shows these flags and never sets them: a process whose XLA does not know a flag aborts at its start, and which flags
an XLA knows depends on its version. `jaxdp plan` compiles with the flags of its environment, so that their effect on memory
and collectives can be seen without the devices.

Sources:
    `xla_gpu_enable_latency_hiding_scheduler`: set in NVIDIA's JAX images (docs.nvidia.com/jax-toolbox/environment-variables).
    TPU flags: AI-Hypercomputer/maxtext, end_to_end/tpu and the collections of XLA flags of its benchmarks.
"""

import dataclasses
import os
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class XlaFlag:
    """Flag of XLA that is worth a try.

    Attributes:
        name: Name without dashes.
        value: Recommended value.
        effect: What it does and for which runs, in words.
    """

    name: str
    value: str
    effect: str


VARIABLES = {"gpu": "XLA_FLAGS", "tpu": "LIBTPU_INIT_ARGS", "cpu": "XLA_FLAGS"}
"""Platform -> environment variable of its flags. XLA_FLAGS with a flag of libtpu aborts the process."""

RECOMMENDED: dict[str, tuple[XlaFlag, ...]] = {
    "cpu": (),
    "gpu": (
        XlaFlag(
            "xla_gpu_enable_latency_hiding_scheduler",
            "true",
            "several GPUs: starts collectives early and ends them late",
        ),
    ),
    "tpu": (
        XlaFlag(
            "xla_tpu_enable_data_parallel_all_reduce_opt", "true", "several slices: overlaps all-reduces of gradients"
        ),
        XlaFlag("xla_tpu_data_parallel_opt_different_sized_ops", "true", "the same for buckets of several sizes"),
    ),
}
"""Platform -> flags. Accepted by jaxlib 0.10.2 and 0.12.0.1, and by libtpu 0.0.52."""


def recommended_flags(platform: str, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Describes the recommended flags of a platform, one a line: the assignment, its effect, and whether the user sets it.

    Args:
        platform: Platform of the devices: cpu, gpu or tpu.
        environment: Environment variables, in which a flag of the user stays as it is.
    """
    variable = VARIABLES[platform]
    own = dict(re.findall(r"--(\w+)(?:=(\S*))?", environment.get(variable, "")))
    return [
        f"{variable}=--{flag.name}={flag.value} ({flag.effect}; {_state(own.get(flag.name))})"
        for flag in RECOMMENDED[platform]
    ]


def _state(value: str | None) -> str:
    """Describes the value that the user gives a flag; None: it is not set."""
    return "not set" if value is None else f"you set it to {value or 'true'}"
