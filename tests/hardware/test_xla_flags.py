"""Recommended XLA flags: the user's own values are shown, and the installed compilers know every flag."""

import importlib.util
import os
import subprocess
import sys

import pytest

from jaxdp.hardware.xla_flags import RECOMMENDED, VARIABLES, recommended_flags


def test_flags_of_the_user_are_shown_as_they_are():
    name = "xla_gpu_enable_latency_hiding_scheduler"
    for given, state in {
        "": "not set",
        f"--{name}_too=true": "not set",
        f"--xla_gpu_autotune_level=0 --{name}=false": "you set it to false",
        f"--{name}": "you set it to true",
    }.items():
        [line] = recommended_flags("gpu", {"XLA_FLAGS": given, "LIBTPU_INIT_ARGS": f"--{name}=1"})
        assert line.startswith(f"XLA_FLAGS=--{name}=true (") and line.endswith(f"; {state})")
    assert recommended_flags("cpu", {}) == []
    assert all(line.startswith("LIBTPU_INIT_ARGS=--xla_tpu_") for line in recommended_flags("tpu", {}))


START = {
    "gpu": "import jax; jax.devices()",  # XLA_FLAGS of all platforms are read by each of them
    "tpu": "from jax.experimental import topologies; topologies.get_topology_desc(topology_name='v5e:2x2', platform='tpu')",
}


@pytest.mark.slow
@pytest.mark.parametrize("platform", START)
def test_the_installed_compiler_knows_every_flag(platform):
    """It aborts the process at one that it does not know, which is why jaxdp sets none."""
    if platform == "tpu" and importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu (extra plan-tpu) is not installed")
    flags = " ".join(f"--{flag.name}={flag.value}" for flag in RECOMMENDED[platform])
    for given, is_known in ((flags, True), (f"{flags} --xla_jaxdp_unknown=true", False)):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", VARIABLES[platform]: given,
        }  # fmt: skip
        finished = subprocess.run(
            [sys.executable, "-c", START[platform]], env=environment, capture_output=True, timeout=300
        )
        assert (finished.returncode == 0) == is_known, finished.stderr[-1000:]
