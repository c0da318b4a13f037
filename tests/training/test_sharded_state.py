"""Compiled programs of sharded runs: what a device holds, what is communicated and how often."""

import itertools

import jax
import numpy as np
import optax
import pytest
from tiers import other_rows_slow, others_slow
from tiny_sharding import collectives, sharded_setup

from jaxdp.model import CHOICES, model_config, parameter_shapes
from jaxdp.parallel import state_placement
from jaxdp.parallel.layout import params_layout, placed_by
from jaxdp.parallel.strategies.zero import Zero
from jaxdp.state import initial_state
from jaxdp.trees import named_leaves

pytestmark = pytest.mark.optimized

MODEL = ("model.num_layers=3", "model.embed_dim=64", "model.mlp_dim=256", "model.scan_layers=True")
NUM_DEVICES = 8


def num_sharded(setup):
    """Numbers of sharded leaves (of the layers, outside of them)."""
    names = [
        name for name, leaf in named_leaves(params_layout(setup.strategy.shapes, NUM_DEVICES)) if leaf.kind == "sharded"
    ]
    in_layers = sum(name.startswith("layer") for name in names)
    return in_layers, len(names) - in_layers


def leaf_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def argument_bytes(setup):
    return setup.compile_step().call.memory_analysis().argument_size_in_bytes


@pytest.fixture(scope="module")
def setups(config_file):
    return {sync: sharded_setup(config_file, sync, *MODEL) for sync in ("pmean", "zero1", "zero3")}


def test_pmean_has_one_all_reduce_and_zero1_one_reduce_scatter_and_gather_a_leaf(setups):
    assert collectives(setups["pmean"].compile_step(), min_elements=4) == {("all-reduce", "ENTRY"): 1}
    leaves = sum(num_sharded(setups["zero1"]))
    assert leaves == 7
    assert collectives(setups["zero1"].compile_step(), min_elements=4) == {
        ("all-reduce", "ENTRY"): 1,
        ("reduce-scatter", "ENTRY"): leaves,
        ("all-gather", "ENTRY"): leaves,
    }


@pytest.mark.parametrize(
    "setting",
    others_slow(
        [*(f"model.remat={name}" for name in CHOICES["remat"]), "model.loss_chunk=8"],
        "model.remat=full",
    ),
)
def test_zero3_gathers_a_layer_forward_and_again_backward(config_file, setting):
    """Layers are gathered in loops, whose bodies are compiled once; the embeddings are gathered once."""
    setup = sharded_setup(config_file, "zero3", *MODEL, setting, "microbatch_size=2")
    of_layers, others = num_sharded(setup)
    assert (of_layers, others) == (6, 1)
    assert collectives(setup.compile_step(), min_elements=4) == {
        ("all-gather", "loop"): 2 * of_layers,
        ("reduce-scatter", "loop"): of_layers,
        ("all-gather", "ENTRY"): others,
        ("reduce-scatter", "ENTRY"): others,
        ("all-reduce", "ENTRY"): 1,
    }


def test_unrolled_layers_are_gathered_within_the_loop_over_microbatches(config_file):
    """Otherwise all layers would be whole at once. XLA on CPU merges the gathers of the backward pass with those of the
    forward pass, since it drops the barriers between them."""
    setup = sharded_setup(
        config_file, "zero3", *MODEL, "model.scan_layers=False", "model.num_layers=2", "microbatch_size=1"
    )
    of_layers, others = num_sharded(setup)
    assert (of_layers, others) == (12, 1)
    found = collectives(setup.compile_step(), min_elements=4)
    assert found.pop(("all-gather", "loop")) >= of_layers + others
    assert found == {("reduce-scatter", "loop"): of_layers + others, ("all-reduce", "ENTRY"): 1}


def test_bytes_of_the_state_on_a_device(setups):
    """By the arguments of the compiled step, next to those of the batch, which is the same for all."""
    shapes = {sync: setup.placement.portable for sync, setup in setups.items()}
    state = shapes["pmean"]
    batch = argument_bytes(setups["pmean"]) - leaf_bytes(state)
    assert 0 < batch < 2000
    sharded, small = 0, 0
    for leaf, layout in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(setups["zero3"].placement.layout.params), strict=True
    ):
        if layout.kind == "sharded":
            sharded += leaf.size * 4
        else:
            small += leaf.size * 4
    counters = leaf_bytes(state) - 4 * (sharded + small)  # parameters, two moments and their average
    assert counters < 64
    expected = {
        "zero1": sharded + 3 * sharded / NUM_DEVICES + 4 * small,
        "zero3": 4 * sharded / NUM_DEVICES + 4 * small,
    }
    for sync, size in expected.items():
        assert argument_bytes(setups[sync]) == pytest.approx(size + counters + batch, abs=64)


def test_gpt2_holds_an_eighth_and_less_than_one_percent_more():
    shapes = parameter_shapes(model_config("gpt2", {}, vocab_size=50257, max_length=1024))
    strategy = Zero(NUM_DEVICES, shapes, shard_params=True)
    state = jax.eval_shape(lambda params: initial_state(params, optax.adamw(1e-3), with_ema=True, sync=()), shapes)
    layouts = strategy.layout(state)
    whole = leaf_bytes(state)
    held = sum(
        leaf.size * 4 // (NUM_DEVICES if layout.kind == "sharded" else 1)
        for leaf, layout in zip(jax.tree.leaves(state), jax.tree.leaves(layouts), strict=True)
    )
    assert whole / NUM_DEVICES < held < whole / NUM_DEVICES + 0.01 * whole


@pytest.mark.parametrize(
    ("around", "sync"),
    other_rows_slow(itertools.product((False, True), ("zero1", "zero3")), (True, "zero1"), (False, "zero3")),
)
def test_initialisation_is_never_whole_on_a_device(config_file, sync, around, monkeypatch):
    """Temporaries of the initialisation on one device are smaller than the largest parameter."""
    setup, programs = sharded_setup(config_file, sync, *MODEL), []

    def recorded(make, specs):
        def call(*arguments):
            programs.append(placed_by(make, specs).lower(*arguments).compile())
            return programs[-1](*arguments)

        return call

    monkeypatch.setattr(state_placement, "placed_by", recorded)
    if around:
        setup.placement.around(setup.placement.initial_params(setup.fresh_params))
    else:
        setup.fresh_state()
    # The parameters themselves are whole in zero1, and so is what the largest of them is computed from.
    largest = 4 * 3 * 64 * 256 * (2 if sync == "zero1" else 1)
    for program, specs in zip(reversed(programs), (setup.placement.abstract, setup.placement.params), strict=False):
        kept = sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) * 4 for leaf in jax.tree.leaves(specs))
        memory = program.memory_analysis()
        assert memory.output_size_in_bytes == pytest.approx(kept, rel=0.01)
        assert memory.temp_size_in_bytes < largest
    assert len(programs) == 1 + around
