"""Targets of a plan: their names and shapes, the published table, and refusals that say what would do."""

import importlib.util

import pytest

from jaxdp.errors import UserError
from jaxdp.hardware.accelerators import ACCELERATORS
from jaxdp.hardware.peaks import peak_flops
from jaxdp.plan.targets import check_divides, check_extra, parse_target, parse_targets
from jaxdp.plan.topologies import gpu_description


def test_devices_of_targets():
    counts = {target.text: target.num_devices for target in parse_targets("v5e:4x4, H100:8,here,v7x:2x2x1,v5e:4x4")}
    assert counts == {"v5e:4x4": 16, "h100:8": 8, "here": None, "v7x:2x2x1": 8}  # two devices a chip


REFUSED = {
    "h1000:8": ["'h1000:8'", "did you mean 'h100'?"],
    "toaster": ["the kinds of devices are here, v4, v5e", "rtx4090"],
    "v5e": ["along its 2 axes, as in v5e:4x4"],
    "v5e:16": ["v5e:4x4"],
    "v4:2x2": ["along its 3 axes, as in v4:4x4x4"],
    "h100:2x4": ["h100: and a number of devices, as in h100:8"],
    "h100:0": ["h100:8"],
    "": ["--for is empty"],
}


@pytest.mark.parametrize("text", REFUSED)
def test_unknown_targets_are_refused_with_those_that_exist(text):
    with pytest.raises(UserError) as refusal:
        parse_targets(text)
    for part in REFUSED[text]:
        assert part in str(refusal.value)


def test_devices_that_do_not_divide_the_batch_are_refused_with_those_that_would():
    check_divides(parse_target("v5e:4x4"), 32, None)
    with pytest.raises(
        UserError, match=r"16 devices of v5e:4x4 .*=24; plan for 3, 4, 6, 8, 12, 24 devices, .*size=16 or 32"
    ):
        check_divides(parse_target("v5e:4x4"), 24, None)
    with pytest.raises(UserError, match=r"microbatch_size=3 does not divide the 2 examples .*; use 1 or 2.$"):
        check_divides(parse_target("v5e:4x4"), 32, 3)  # on no number of devices: 3 does not divide 32


def test_a_microbatch_that_does_not_divide_is_refused_with_sizes_and_counts_that_would():
    """The batch of gpt2_small on 16 devices; 40 microbatches of 12 are shared by the divisors of 40."""
    check_divides(parse_target("v5e:2x4"), 480, 12)
    with pytest.raises(UserError) as refusal:
        check_divides(parse_target("v5e:4x4"), 480, 12)
    assert str(refusal.value) == (
        "v5e:4x4: microbatch_size=12 does not divide the 30 examples that each of 16 devices holds; use 1, 2, 3, 5, 6, 10, 15 "
        "or 30, or plan for 4, 5, 8, 10, 20, 40 devices."
    )
    with pytest.raises(UserError, match=r"64 devices of v5e:8x8 .*=480; plan for 4, 5, 8, 10, 20, 40 devices"):
        check_divides(parse_target("v5e:8x8"), 480, 12)


def test_a_missing_extra_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'run: pip install "jaxdp\[plan-tpu\]"$'):
        check_extra(parse_target("v5e:1x1"))
    with pytest.raises(UserError, match=r'"jaxdp\[plan-cuda\]" "jax-cuda12-plugin==0\.\d'):
        check_extra(parse_target("l4:1"))
    check_extra(parse_target("here"))


@pytest.mark.parametrize("name", ACCELERATORS)
def test_every_accelerator_has_plausible_published_values(name):
    found = ACCELERATORS[name]
    assert found.peak == peak_flops(found.device_kind) > 1e14
    assert 2**33 < found.usable_bytes <= found.memory_bytes < 2**38
    # Units: memory is faster than links, and links than the network.
    assert 1e10 < found.link_bandwidth < found.memory_bandwidth < 1e13
    assert found.network_bandwidth < found.link_bandwidth
    assert (found.platform == "gpu") == (found.dimensions == 0) == (found.cores is not None)


def test_description_of_a_gpu_has_the_values_of_xla():
    text = " ".join(
        gpu_description(ACCELERATORS["h100"]).split()
    )  # xla/backends/gpu/target_config/specs/h100_sxm.txtpb
    for line in (
        "core_count: 132",
        "shared_memory_per_block_optin: 232448",
        "memory_bandwidth: 3352",
        "major: 9 minor: 0",
    ):
        assert line in text
