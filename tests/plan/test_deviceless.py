"""Steps, evaluation and decoding of all tasks, compiled for TPUs and GPUs that are not here, each target in its own process."""

import importlib.util

import pytest

from jaxdp.errors import UserError
from jaxdp.plan.apart import plan_apart
from jaxdp.plan.targets import check_extra, parse_target

pytestmark = pytest.mark.slow

TINY = (
    "model.num_layers=2", "model.num_heads=2", "model.embed_dim=128", "model.mlp_dim=256", "data.length=128",
    "model.dropout_rate=0.0", "total_steps=10", "total_epochs=None",
)  # fmt: skip

RECIPES = ("quickstart", "bert_small_stdlib", "classify_quickstart", "translate_quickstart")


def planned(recipe, target, *keys):
    """Returns the plan of a recipe, or skips the test if the compiler of the target is not installed."""
    devices = parse_target(target)
    try:
        check_extra(devices)
    except UserError as missing:
        pytest.skip(str(missing))
    plan = plan_apart(recipe, [f"--config.{key}" for key in keys], devices)
    assert "refused" not in plan, plan["refused"]
    return plan


@pytest.mark.parametrize("target", ["v5e:4x4", "h100:8"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_task_compiles(recipe, target):
    decoder = ["model.num_decoder_layers=2"] if recipe == "translate_quickstart" else []
    plan = planned(recipe, target, *TINY, *decoder, "global_batch_size=32", "microbatch_size=2")
    assert plan["fits"] and plan["max_microbatch_size"] == 32 // plan["devices"]
    assert plan["collectives"] and plan["flops_per_step"] > 0.5 * plan["model_flops_per_step"]
    assert ("decoding" in plan["programs"]) == (recipe in ("quickstart", "translate_quickstart"))


def test_a_large_slice():
    assert planned("quickstart", "v5e:16x16", *TINY, "global_batch_size=256")["devices"] == 256


@pytest.mark.parametrize(("target", "kernel"), [("v5e:2x2", "splash"), ("h100:8", "cudnn")])
def test_gpt2_small_as_shipped_fits_with_fused_attention(target, kernel):
    plan = planned("gpt2_small", target)
    assert plan["attention"] == kernel and plan["bytes"]["total"] < plan["bytes"]["device"]
    assert plan["max_microbatch_size"] >= plan["microbatch_size"] == 12


def test_a_program_that_the_compiler_refuses_has_a_plan():
    plan = planned("gpt2_small", "v5e:2x2", "model.attention=plain", "microbatch_size=60")
    assert not plan["fits"] and 0 < plan["max_microbatch_size"] < 60
    assert plan["collectives"]  # of a size that fits


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu (extra plan-tpu) is not installed")
def test_a_slice_that_does_not_exist_is_refused():
    assert (
        "knows no slice v5e:3x5"
        in plan_apart("quickstart", ["--config.global_batch_size=30"], parse_target("v5e:3x5"))["refused"]
    )
