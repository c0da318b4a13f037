"""Training with sharded state against `pmean`: the same losses, whatever the optimizer and the options."""

import jax
import numpy as np
import pytest
from tiers import others_slow
from tiny_runs import assert_same_bits
from tiny_sharding import SYNCS, assert_same_steps, in_true_shapes, sharded_setup, steps_of
from tiny_training import assert_equal_trees

from jaxdp.trees import named_leaves

pytestmark = pytest.mark.usefixtures("small_shards")

MODEL = ("model.num_layers=2", "model.scan_layers=True", "model.embed_dim=32")
EVERYTHING = ("optim.clip_norm=0.5", "optim.warmup_steps=10", "optim.ema_decay=0.9", "model.dropout_rate=0.1")
"""With two microbatches a device, as the tiny configuration has them."""


def compare(
    config_file, num_steps, *overrides, syncs=SYNCS[1:], rtol=1e-6, atol=1e-5, change=lambda step, batch: batch
):
    """Trains with pmean and other strategies; returns the steps of pmean."""
    setups = [
        sharded_setup(config_file, sync, *MODEL, f"total_steps={num_steps}", *overrides) for sync in ("pmean", *syncs)
    ]
    (expected, state), *others = (steps_of(setup, num_steps, change) for setup in setups)
    for found, sharded in others:
        assert_same_steps(found, expected, rtol)
        assert_equal_trees(sharded, state, rtol=1e-3, atol=atol)
    return expected


@pytest.mark.parametrize(
    ("optimizer", "rtol"),
    [
        ("adamw", 1e-6),
        pytest.param("muon", 1e-6, marks=pytest.mark.slow),
        pytest.param("lion", 1e-4, marks=pytest.mark.slow),
    ],
)
def test_a_hundred_steps(config_file, optimizer, rtol):
    steps = compare(config_file, 100, *EVERYTHING, f"optim.name={optimizer}", rtol=rtol, atol=1e-3)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    assert max(step["grad_norm"] for step in steps) > 0.5  # clipping acted
    assert len({step["hash"] for step in steps}) == 100


@pytest.mark.slow
def test_a_hundred_steps_of_adafactor(config_file):
    """Axes of 128 and more are factored."""
    compare(
        config_file, 100, *EVERYTHING, "optim.name=adafactor", "model.embed_dim=128", "model.num_layers=1", atol=1e-3
    )


@pytest.mark.parametrize("sync", others_slow(SYNCS[1:], "zero1"))
@pytest.mark.parametrize("optimizer", others_slow(["normuon", "adafactor"], "normuon"))
def test_optimizers_of_whole_matrices(config_file, optimizer, sync):
    """Normuon is muon with a state of other shapes. Cautious weight decay sees shards, and layers have scalars."""
    compare(
        config_file, 5, f"optim.name={optimizer}", "model.embed_dim=128", "model.num_heads=2", "model.num_layers=1",
        "optim.weight_decay=0.5", "optim.weight_decay_end=0", "optim.cautious=True",
        "model.qk_norm=True", "model.residual_scalars=True", "model.value_embeddings=True", "model.logit_softcap=15.0",
        syncs=[sync],
    )  # fmt: skip


@pytest.mark.parametrize("sync", others_slow(SYNCS[1:], "zero3"))
def test_layers_of_two_kinds(config_file, sync):
    """Scanned layers with and without a window, each with a rotary base and norms of its own on both sides; gated,
    rematerialised, with few key heads and an output layer of its own."""
    compare(
        config_file, 4, "model.positions=rotary", "model.rotary_local_base=50.0", "model.attention_window=4",
        "model.attention_window_pattern=(1,0)", "model.norm_position=both", "model.norm_offset=1.0",
        "model.activation=geglu_tanh", "model.head_dim=48", "model.embedding_scale=11.3", "model.num_kv_heads=1",
        "model.tie_embeddings=False", "model.remat=dots", syncs=[sync],
    )  # fmt: skip


@pytest.mark.parametrize("sync", others_slow(SYNCS[1:], "zero1"))
def test_penalties_frozen_parameters_and_rates_by_path(config_file, sync):
    compare(
        config_file, 6, "optim.l1=0.0001", "optim.l2=0.01", "optim.layer_decay=0.7", "optim.freeze=('layer_0/mlp/.*',)",
        "optim.scales=(('token_embedding',0.1),)", "optim.weight_decay=0.1", "model.scan_layers=False", "optim.warmup_steps=0",
        syncs=[sync],
    )  # fmt: skip


@pytest.mark.parametrize("sync", others_slow(SYNCS[1:], "zero3"))
@pytest.mark.parametrize("optimizer", others_slow(["adamw", "muon"], "adamw"))
def test_adapters_alone_are_trained(config_file, optimizer, sync):
    """The optimizer has moments of the adapters only, sharded where they are large."""
    options = (
        "model.lora_rank=4",
        "model.lora_layers=('attention/.*',)",
        f"optim.name={optimizer}",
        "optim.warmup_steps=0",
    )
    compare(config_file, 4, *options, syncs=[sync])
    for each in ("pmean", sync):
        opt_state = sharded_setup(config_file, each, *MODEL, *options).placement.abstract.opt_state
        large = [name for name, leaf in named_leaves(opt_state) if leaf.size > 100]
        assert large and all(name.endswith(("lora_a", "lora_b")) for name in large)


@pytest.mark.parametrize("sync", others_slow(SYNCS[1:], "zero1"))
def test_spikes_and_nans_are_skipped_alike(config_file, sync):
    def change(step, batch):
        weights = np.array(batch["loss_weights"])
        if step == 3:
            weights[5] = np.nan  # of one device
        tokens = batch["tokens"] if step != 24 else np.full_like(batch["tokens"], 7)
        targets = batch["targets"] if step != 24 else np.full_like(batch["targets"], 255)
        return {**batch, "loss_weights": weights, "tokens": tokens, "targets": targets}

    steps = compare(config_file, 27, "optim.spike_factor=1.3", "optim.learning_rate=0.01", syncs=[sync], change=change)
    assert [step["skipped"] for step in steps] == [0] * 3 + [1] * 21 + [2] * 3
    assert np.isnan(steps[3]["loss"]) and np.isfinite(steps[24]["loss"])


@pytest.mark.parametrize("sync", others_slow(SYNCS[1:], "zero3"))
@pytest.mark.parametrize(
    ("model", "rtol"),
    [
        pytest.param(("model.scan_layers=False",), 1e-6, marks=pytest.mark.slow),
        pytest.param(("model.remat=full",), 1e-6, marks=pytest.mark.slow),
        pytest.param(
            ("model.preset=llama_nano", "model.num_kv_heads=1", "model.tie_embeddings=False", "model.remat=dots"),
            1e-6,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("model.positions=relative", "model.norm_position=post", "microbatch_size=2"), 1e-6, marks=pytest.mark.slow
        ),
        # The embedding is rounded as it is sent, not after the sum with the position.
        (("model.dtype=bfloat16",), 2e-3),
    ],
    ids=["unrolled", "remat", "llama", "relative", "bfloat16"],
)
def test_models(config_file, model, rtol, sync):
    compare(config_file, 5, *model, syncs=[sync], rtol=rtol, atol=1e-5 if rtol < 1e-5 else 1e-2)


@pytest.mark.slow  # the first losses of all tests above
def test_state_0_is_that_of_pmean(config_file):
    def arrays(sync):
        setup = sharded_setup(config_file, sync, *MODEL)
        state = in_true_shapes(setup.placement, setup.fresh_state())
        return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(state)}

    expected = arrays("pmean")
    for sync in SYNCS[1:]:
        assert_same_bits(arrays(sync), expected)
