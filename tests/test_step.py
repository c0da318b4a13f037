"""The train step against a gradient written out in NumPy, on every split of the batch."""

import itertools

import jax
import numpy as np
import optax
import pytest
from tiers import other_rows_slow, others_slow
from tiny_training import (
    LENGTH,
    ROWS,
    TASK,
    TinyStep,
    assert_equal_trees,
    batch_of,
    bigram_loss,
    bigram_params,
    host,
    plain_update,
    reference,
    uneven_batch,
)

from jaxdp.model import Transformer, model_config, parameter_shapes
from jaxdp.model.dropout import dropout
from jaxdp.model.output_layer import OutputLayer
from jaxdp.optim import UpdateConfig, track_loss
from jaxdp.optim.spikes import SPIKE_WARMUP
from jaxdp.parallel.buckets import GradientSync
from jaxdp.parallel.strategies.pmean import Pmean
from jaxdp.tasks.model_functions import task_loss

pytestmark = pytest.mark.optimized

SPLITS = [(devices, microbatches) for devices in (1, 2, 4, 8) for microbatches in (1, 2, 4)]
QUICK = [(1, 4), (2, 1), (4, 4), (8, 2)]
"""Splits in the default tier: each count of devices, and of microbatches, is in one."""


@pytest.fixture(scope="module", params=others_slow(SPLITS, *QUICK), ids=lambda split: f"{split[0]}x{split[1]}")
def split_step(request):
    """The step on 1 to 8 devices, in 1 to 4 microbatches; with all that a state can hold."""
    devices, microbatches = request.param
    update = UpdateConfig(
        optax.sgd(1.0, momentum=0.0),
        optax.constant_schedule(1.0),
        ema_decay=0.5,
        skip_by="select" if microbatches == 2 else "branch",
    )
    step = TinyStep(devices, microbatches, update=update)
    step.microbatches = microbatches
    return step


@pytest.mark.parametrize("empty_rows", [0, ROWS // 2], ids=["uneven", "devices without a target"])
def test_loss_and_gradient_are_means_over_all_valid_targets(split_step, empty_rows):
    batch = uneven_batch(seed=1, empty_rows=empty_rows)
    state, metrics = split_step(split_step.fresh_state(), batch)
    loss, gradient = reference(bigram_params(), batch)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    assert metrics["tokens"] == batch["loss_weights"].sum()
    applied = jax.tree.map(np.subtract, bigram_params(), host(state.params))
    assert_equal_trees(applied, gradient, atol=1e-6, rtol=1e-5)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in gradient.values()))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)


def no_target():
    return batch_of([0] * ROWS)


def nan_on_one_device():
    batch = uneven_batch(seed=2)
    batch["loss_weights"][-1, 0] = np.nan
    return batch


@pytest.mark.parametrize("bad_batch", [no_target, nan_on_one_device])
def test_a_bad_batch_is_skipped_and_counted(split_step, bad_batch):
    good = uneven_batch(seed=3)
    state, _ = split_step(split_step.fresh_state(), good)
    before = host(state)
    for count in (1, 2):
        state, metrics = split_step(state, bad_batch())
        assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (count, count)
        assert not np.isfinite(metrics["loss"])
    after = host(state)
    for name in ("params", "opt_state", "ema"):
        assert_equal_trees(getattr(after, name), getattr(before, name))
    assert (after.step, after.skipped, after.skipped_in_a_row) == (3, 2, 2)
    state, metrics = split_step(state, good)
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (2, 0)
    assert np.isfinite(metrics["loss"])
    assert np.abs(host(state.params)["kernel"] - before.params["kernel"]).max() > 0


def all_reduces(program):
    """Operand types of each all-reduce as (computation, [sizes]), from the compiled program."""
    computation, found = None, []
    for line in program.call.as_text().splitlines():
        if line and not line[0].isspace():
            computation = "ENTRY" if line.startswith("ENTRY") else line.split()[0]
        left, _, right = line.partition(" all-reduce")
        if right and " = " in left:
            shapes = left.split(" = ")[1].strip("()").split(", ")
            found.append((computation, [shape.split("{")[0] for shape in shapes]))
    return found


def test_gradients_travel_once_a_step_and_not_in_the_microbatch_loop(split_step):
    found = all_reduces(split_step.program)
    assert {computation for computation, _ in found} == {"ENTRY"}
    operands = [shape for _, shapes in found for shape in shapes]
    elements = sum(leaf.size for leaf in bigram_params().values())
    gradients = [f"f32[{elements}]"] if split_step.topology.num_devices > 1 else []
    # Loss and weight, what is asked for, and the control word next to the gradients: nothing else.
    assert sorted(operands) == sorted([*gradients, "f32[3]", "s32[]", "u32[4]"])
    if split_step.microbatches > 1:
        assert " while(" in split_step.program.call.as_text()


def test_states_are_donated_and_stay_whole_and_equal_on_every_device(split_step):
    state = split_step.fresh_state()
    for seed in range(3):
        previous = state
        state, _ = split_step(state, uneven_batch(seed))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(previous))
    shapes = jax.tree.map(np.shape, bigram_params())
    assert jax.tree.map(np.shape, state.params) == shapes
    for leaf in jax.tree.leaves(state):
        assert leaf.sharding.is_equivalent_to(split_step.topology.replicated, leaf.ndim)
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == split_step.topology.num_devices
        for shard in shards:
            assert shard.shape == leaf.shape
            assert shard.tobytes() == shards[0].tobytes()


def test_request_and_batch_hash_are_reduced(split_step):
    _, metrics = split_step(split_step.fresh_state(), uneven_batch(), request=15, batch_hash=2**63 + 5)
    assert metrics["request"] == 15
    assert sum(int(part) << 16 * index for index, part in enumerate(metrics["batch_hash"])) == 2**63 + 5


def test_a_gradient_or_a_loss_alone_that_is_not_finite_skips():
    def loss(params, rows, row_keys):
        sums = bigram_loss(params, rows, row_keys)
        corner = params["kernel"][0, 0]
        # At kink 0 the root's value is 0 and its derivative 0 / 0.
        extra = jax.numpy.sum(jax.numpy.sqrt(rows["kink"] * corner**2) + rows["offset"])
        return sums._replace(loss=sums.loss + extra)

    step = TinyStep(2, loss=loss, extra_spec=("kink", "offset"))
    batch = uneven_batch() | {"kink": np.ones(ROWS, np.float32), "offset": np.zeros(ROWS, np.float32)}
    kink, offset = batch["kink"].copy(), batch["offset"].copy()
    kink[-1], offset[-1] = 0.0, np.inf
    state, metrics = step(step.fresh_state(), batch)
    assert metrics["skipped"] == 0
    state, metrics = step(state, batch | {"kink": kink})
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["grad_norm"])
    assert metrics["skipped"] == 1
    state, metrics = step(state, batch | {"offset": offset})
    assert np.isfinite(metrics["grad_norm"])
    assert not np.isfinite(metrics["loss"])
    assert metrics["skipped"] == 2


@pytest.mark.parametrize("skip_by", ["branch", "select"])
def test_after_too_many_bad_updates_in_a_row_nothing_is_applied(skip_by):
    step = TinyStep(2, update=plain_update(max_skipped_in_a_row=2, skip_by=skip_by))
    good = uneven_batch(3)
    state, _ = step(step.fresh_state(), no_target())
    state, metrics = step(state, good)  # one is borne
    assert metrics["skipped_in_a_row"] == 0
    before = host(state)
    for count, batch in enumerate((no_target(), no_target(), good, good), start=1):
        state, metrics = step(state, batch)
        assert metrics["skipped_in_a_row"] == count
    assert_equal_trees(host(state).params, before.params)


@pytest.mark.parametrize(
    ("devices", "skip_by"),
    other_rows_slow(itertools.product((1, 4), ("branch", "select")), (1, "select"), (4, "branch")),
)
def test_a_spike_is_skipped_like_what_is_not_finite(devices, skip_by):
    def loss(params, rows, row_keys):
        sums = bigram_loss(params, rows, row_keys)
        return sums._replace(loss=sums.loss + jax.numpy.sum(rows["offset"]))

    update = UpdateConfig(
        optax.chain(optax.sgd(0.01), track_loss()), optax.constant_schedule(0.01), spike_factor=2.0, skip_by=skip_by
    )
    step = TinyStep(devices, loss=loss, update=update, extra_spec=("offset",))
    batch = uneven_batch(3) | {"offset": np.zeros(ROWS, np.float32)}
    high = batch | {"offset": np.full(ROWS, 1000.0, np.float32)}
    state = step.fresh_state()
    for count in range(SPIKE_WARMUP):
        state, metrics = step(state, high if count == 1 else batch)  # not told from a spike yet
        assert metrics["skipped"] == 0
    for _ in range(2 * SPIKE_WARMUP):  # until the mean has forgotten the high one
        state, metrics = step(state, batch)
    before = host(state)
    state, metrics = step(state, high)
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (1, 1)
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
    after = host(state)
    for name in ("params", "opt_state"):  # the mean of the losses among it
        assert_equal_trees(getattr(after, name), getattr(before, name))
    state, metrics = step(state, batch)
    assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (1, 0)


def test_clipping_reports_the_norm_before_and_updates_with_the_norm_after():
    step = TinyStep(2, update=plain_update(clip_norm=0.05))
    batch = uneven_batch(seed=4)
    state, metrics = step(step.fresh_state(), batch)
    _, gradient = reference(bigram_params(), batch)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in gradient.values()))
    assert norm > 0.05
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)
    applied = jax.tree.map(np.subtract, bigram_params(), host(state.params))
    clipped = jax.tree.map(lambda leaf: leaf * 0.05 / norm, gradient)
    assert_equal_trees(applied, clipped, atol=3e-7)


def test_ema_moves_by_its_share_towards_each_new_value():
    step = TinyStep(1, update=plain_update(ema_decay=0.9))
    state, expected = step.fresh_state(), bigram_params()
    assert_equal_trees(host(state.ema), expected)
    for seed in range(3):
        state, _ = step(state, uneven_batch(seed))
        expected = jax.tree.map(lambda average, value: 0.9 * average + 0.1 * value, expected, host(state.params))
        assert_equal_trees(host(state.ema), expected, rtol=1e-5, atol=1e-6)


def test_without_ema_there_is_none():
    step = TinyStep(1)
    state, _ = step(step.fresh_state(), uneven_batch())
    assert state.ema is None


def test_the_schedule_counts_applied_updates_only():
    def schedule(count):
        return 0.1 / (1.0 + count)

    step = TinyStep(2, update=UpdateConfig(optax.sgd(schedule), schedule))
    state, params = step.fresh_state(), bigram_params()
    for rate, batch in (
        (0.1, uneven_batch(5)),
        (0.05, no_target()),
        (0.05, uneven_batch(6)),
        (0.1 / 3, uneven_batch(7)),
    ):
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["learning_rate"], rate, rtol=1e-6)
        if np.isfinite(metrics["loss"]):
            _, gradient = reference(params, batch)
            params = jax.tree.map(lambda leaf, slope, rate=rate: leaf - rate * slope, params, gradient)
        assert_equal_trees(host(state.params), params, atol=1e-6)


@pytest.mark.parametrize(
    ("bucket_bytes", "sizes"), [(220, ["f32[55]", "f32[55]"]), (1, ["f32[55]", "f32[55]"]), (440, ["f32[110]"])]
)
def test_buckets_are_messages_of_their_own_and_give_the_same_state(bucket_bytes, sizes):
    bucketed = TinyStep(4, 2, strategy=Pmean(4, GradientSync(bucket_bytes=bucket_bytes)))
    operands = [shape for _, shapes in all_reduces(bucketed.program) for shape in shapes]
    assert [shape for shape in operands if shape in ("f32[55]", "f32[110]")] == sizes
    single = TinyStep(4, 2)
    batch = uneven_batch(8)
    states = [host(step(step.fresh_state(), batch)[0]) for step in (bucketed, single)]
    assert_equal_trees(states[0].params, states[1].params, rtol=1e-6)


# Dropout: the model draws a mask for each row, so the split must not matter.

MODEL = model_config(
    "nano",
    {"num_layers": 2, "num_heads": 2, "embed_dim": 16, "mlp_dim": 16, "dropout_rate": 0.1, "scan_layers": True},
    vocab_size=11,
    max_length=LENGTH,
)


def transformer_params():
    random = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: random.normal(0, 0.3, leaf.shape).astype(np.float32), parameter_shapes(MODEL))


def bigram_dropout_loss(params, rows, row_keys):
    """The bigram model with dropout between its two matrices, which compiles quickly."""

    def apply(params, tokens, row_keys, method):
        assert method == "output_layer"
        hidden = dropout(params["table"][tokens], row_keys, rate=0.1, layer=0, site="embedding")
        return OutputLayer(hidden, params["kernel"].T)

    return TASK.loss(apply, params, rows, row_keys, train=True)


def dropout_step(devices, microbatches, *, transformer=False, seed=0, rate=0.1):
    return TinyStep(
        devices,
        microbatches,
        loss=task_loss(TASK, Transformer(MODEL), train=True) if transformer else bigram_dropout_loss,
        params=transformer_params() if transformer else bigram_params(),
        update=UpdateConfig(optax.sgd(rate), optax.constant_schedule(rate)),
        seed=seed,
    )


def losses_of(step, *, shuffled=False):
    """Losses of four steps on the same batch, its examples in order or shuffled."""
    order = np.random.default_rng(10).permutation(ROWS) if shuffled else np.arange(ROWS)
    batch = {name: array[order] for name, array in uneven_batch(9).items()}
    state, losses = step.fresh_state(), []
    for _ in range(4):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses


@pytest.fixture(scope="module")
def whole_batch_losses():
    return losses_of(dropout_step(1, 1))


@pytest.mark.parametrize("split", others_slow([(1, 4), (2, 2), (4, 1), (8, 4)], (1, 4), (8, 4)))
def test_dropout_depends_on_the_row_and_not_on_the_split(split, whole_batch_losses):
    step = dropout_step(*split)
    for shuffled in (False, True):
        np.testing.assert_allclose(losses_of(step, shuffled=shuffled), whole_batch_losses, rtol=1e-5)


@pytest.mark.slow  # tests/training/test_elasticity.py: a run with dropout on eight devices and on one
def test_dropout_of_the_transformer_does_not_depend_on_the_split():
    whole, split = dropout_step(1, 1, transformer=True), dropout_step(8, 2, transformer=True)
    np.testing.assert_allclose(losses_of(split, shuffled=True), losses_of(whole), rtol=1e-5)


def test_masks_differ_by_step_and_seed(whole_batch_losses):
    losses = losses_of(dropout_step(1, 1, seed=1, rate=0.0))  # nothing but the masks changes
    assert np.abs(np.diff(losses)).min() > 1e-4
    assert abs(losses[0] - whole_batch_losses[0]) > 1e-4
