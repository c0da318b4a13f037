import itertools
import json

import numpy as np
import pytest

from jaxdp.data.batch_hash import batch_hash
from jaxdp.data.pipeline import check_data_state, data_state, eval_batches, train_batches
from jaxdp.data.samplers.epochs import EpochSampler
from jaxdp.data.samplers.shards import PARTITIONS
from jaxdp.data.sequences.windows import TokenWindows
from jaxdp.errors import UserError

TOKENS = np.random.default_rng(0).integers(1, 100, 4 * 22 + 3)  # 22 rows and a tail
BATCH = 8


def make_batch(examples, seed, step, row_ids):
    """A task with per-row randomness: what it draws shows where seed, step and row are wrong."""
    weights = np.arange(1, examples["tokens"].shape[1]) < examples["num_tokens"][:, None]
    draws = [np.random.default_rng([seed, step, row]).random() for row in row_ids]
    return {
        "tokens": examples["tokens"][:, :-1],
        "targets": examples["tokens"][:, 1:],
        "loss_weights": weights.astype(np.float32),
        "draws": np.array(draws),
    }


def train(num_steps, start_step=0, partition="block", num_processes=1, process_index=0, seed=5):
    source = TokenWindows(TOKENS, 4, keep_tail=False)
    order = EpochSampler(num_rows=source.num_rows, global_batch_size=BATCH, seed=seed, shuffle=True)
    batches = train_batches(
        source,
        make_batch,
        order,
        partition=partition,
        num_processes=num_processes,
        process_index=process_index,
        start_step=start_step,
    )
    return list(itertools.islice(batches, num_steps))


def evaluate(num_processes=1, process_index=0, num_batches=0, batch=BATCH):
    source = TokenWindows(TOKENS, 4, keep_tail=True)
    return list(
        eval_batches(
            source,
            make_batch,
            global_batch_size=batch,
            num_processes=num_processes,
            process_index=process_index,
            num_batches=num_batches,
        )
    )


def assert_equal(batch, expected):
    assert batch.keys() == expected.keys()
    for name in batch:
        np.testing.assert_array_equal(batch[name], expected[name], strict=True)


def joined(shares):
    """The global batch from the shares of all processes, in row order."""
    row_ids = np.concatenate([share["row_ids"] for share in shares])
    where = np.argsort(row_ids)
    return {name: np.concatenate([share[name] for share in shares])[where] for name in shares[0]}


def test_batches_hold_the_rows_of_the_order():
    source = TokenWindows(TOKENS, 4, keep_tail=False)
    order = EpochSampler(num_rows=22, global_batch_size=BATCH, seed=5, shuffle=True)
    for step, batch in enumerate(train(6)):
        rows = order.rows(step, np.arange(BATCH))
        expected = source.rows(rows)["tokens"]
        np.testing.assert_array_equal(batch["tokens"], expected[:, :-1])
        np.testing.assert_array_equal(batch["row_ids"], np.arange(BATCH, dtype=np.int32))
        assert batch["row_ids"].dtype == np.int32


def test_an_epoch_visits_each_row_once():
    batches = train(11)  # 88 rows: four epochs of 22
    tokens = np.concatenate([batch["tokens"] for batch in batches])
    expected = sorted(TOKENS[:88].reshape(22, 4).tolist())
    for epoch in range(4):
        assert sorted(tokens[epoch * 22 : epoch * 22 + 22].tolist()) == expected


def test_resume_at_every_step_of_two_epochs():
    batches = train(7)
    for start_step in range(7):
        rest = train(7 - start_step, start_step)
        for batch, expected in zip(rest, batches[start_step:], strict=True):
            assert_equal(batch, expected)


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_processes_together_make_the_same_batches(partition, num_processes):
    shares = [train(6, 0, partition, num_processes, index) for index in range(num_processes)]
    for step_shares, expected in zip(zip(*shares, strict=True), train(6), strict=True):
        assert_equal(joined(step_shares), expected)
        parts = sum(batch_hash(share, share["row_ids"]) for share in step_shares)
        assert parts % 2**64 == batch_hash(expected, expected["row_ids"])


def test_another_seed_is_another_run():
    hashes = [[batch_hash(b, b["row_ids"]) for b in train(3, seed=seed)] for seed in (5, 6)]
    assert not set(hashes[0]) & set(hashes[1])


def test_evaluation_reads_every_token_once_in_order():
    for batch_size in (1, 4, 8, 64):
        batches = evaluate(batch=batch_size)
        assert {len(batch["tokens"]) for batch in batches} == {batch_size}
        targets = np.concatenate([b["targets"][b["loss_weights"] > 0] for b in batches])
        np.testing.assert_array_equal(targets, TOKENS[1:])


def test_evaluation_fills_the_last_batch_with_rows_of_no_weight():
    last = evaluate()[-1]  # 23 rows: 7 in the third batch
    assert last["row_ids"].tolist() == list(range(16, 24)) and last["row_ids"].dtype == np.int32
    assert last["loss_weights"].sum(axis=1).tolist() == [4, 4, 4, 4, 4, 4, 2, 0]


@pytest.mark.parametrize("num_processes", [2, 8])
def test_evaluation_has_as_many_batches_on_every_process(num_processes):
    shares = [evaluate(num_processes, index) for index in range(num_processes)]
    for step_shares, expected in zip(zip(*shares, strict=True), evaluate(), strict=True):
        assert_equal(joined(step_shares), expected)


def test_evaluation_draws_do_not_depend_on_the_batch_size():
    draws = [np.concatenate([batch["draws"] for batch in evaluate(batch=size)])[:23] for size in (4, 8)]
    np.testing.assert_array_equal(*draws)


def test_evaluation_of_some_batches():
    whole = evaluate()
    for num_batches, expected in ((1, 1), (2, 2), (3, 3), (9, 3), (0, 3)):
        some = evaluate(num_batches=num_batches)
        assert len(some) == expected
        for batch, of_whole in zip(some, whole, strict=False):
            assert_equal(batch, of_whole)


def test_data_state_is_json_and_agrees_with_itself():
    order = EpochSampler(num_rows=22, global_batch_size=8, seed=5, shuffle=True)
    state = data_state(order, "abc", 7)
    assert (state["format"], state["step"]) == (2, 7)
    check_data_state(json.loads(json.dumps(state)), data_state(order, "abc", 7))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fingerprint": "xyz"}, "fingerprint: xyz in the checkpoint, abc now"),
        ({"order": {"num_rows": 23, "seed": 1}}, "num_rows: 23 in .*; seed: 1 in the checkpoint, 5 now"),
        ({"order": {"global_batch_size": 16}}, "global_batch_size: 16 in the checkpoint, 8 now"),
        ({"step": 8}, "step: 8 in the checkpoint, 7 now"),
        ({"format": 1}, "format: 1 in the checkpoint, 2 now"),
        ({"exclusions": [3]}, r"exclusions: \[3\] in the checkpoint, \[\] now"),
    ],
)
def test_data_state_says_what_disagrees(change, message):
    order = EpochSampler(num_rows=22, global_batch_size=8, seed=5, shuffle=True)
    state = data_state(order, "abc", 7)
    with pytest.raises(UserError, match=message):
        check_data_state({**state, **change}, state)
