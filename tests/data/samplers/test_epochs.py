import json
import tracemalloc

import numpy as np
import pytest

from jaxdp.data.samplers.epochs import EpochSampler
from jaxdp.data.samplers.permutation import permute


def sequence(order, num_steps):
    places = np.arange(order.global_batch_size, dtype=np.int32)
    return np.concatenate([order.rows(step, places) for step in range(num_steps)])


@pytest.mark.parametrize("num_rows, batch", [(12, 4), (13, 4), (3, 8), (1, 5), (1000, 7)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_epoch_holds_each_row_once(num_rows, batch, shuffle):
    order = EpochSampler(num_rows=num_rows, global_batch_size=batch, seed=1, shuffle=shuffle)
    rows = sequence(order, -(-3 * num_rows // batch))
    for epoch in range(3):
        here = rows[epoch * num_rows : (epoch + 1) * num_rows]
        assert sorted(here) == list(range(num_rows))
        if not shuffle:
            assert here.tolist() == list(range(num_rows))


def test_epochs_and_seeds_have_their_own_order():
    orders = [EpochSampler(num_rows=50, global_batch_size=10, seed=seed, shuffle=True) for seed in (0, 1)]
    epochs = {tuple(sequence(order, 10)[i : i + 50]) for order in orders for i in (0, 50)}
    assert len(epochs) == 4


def test_position_arithmetic_far_away():
    order = EpochSampler(num_rows=10**9, global_batch_size=4096, seed=3, shuffle=True)
    step = 10**7
    position = step * 4096 + 17
    expected = permute(np.array([position % 10**9]), 10**9, ("epoch", 3, position // 10**9))
    np.testing.assert_array_equal(order.rows(step, np.array([17], np.int32)), expected)


def test_a_thousand_million_rows_cost_nothing():
    order = EpochSampler(num_rows=10**9, global_batch_size=10_000, seed=3, shuffle=True)
    places = np.arange(10_000)
    order.rows(0, places[:10])
    tracemalloc.start()
    batches = [order.rows(step, places) for step in (0, 1, 50_000, 99_999)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20
    rows = np.concatenate(batches)
    assert len(np.unique(rows)) == 40_000 and rows.min() >= 0 and rows.max() < 10**9
    # The last batch of the epoch is followed by another order of the same rows.
    assert not np.isin(order.rows(100_000, places), batches[0]).all()


def excluding(exclusions, shuffle=True, num_rows=22):
    return EpochSampler(num_rows=num_rows, global_batch_size=4, seed=1, shuffle=shuffle, exclusions=exclusions)


@pytest.mark.parametrize("exclusions", [(), (0,), (3,), (0, 1, 2), (2, 3, 7), (1, 5, 6, 10**12)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_excluded_slots_are_passed_over(exclusions, shuffle):
    plain, order = excluding((), shuffle), excluding(exclusions, shuffle)
    slots = [slot for slot in range(40) if slot not in exclusions]
    assert [order.slot(step) for step in range(30)] == slots[:30]
    places = np.array([3, 0, 2], np.int32)
    for step in range(30):
        np.testing.assert_array_equal(order.rows(step, places), plain.rows(slots[step], places))


def test_a_slot_excluded_later_does_not_change_what_came_before():
    """A batch that made training diverge is left out from the step at which it stood."""
    before = excluding((2,))
    bad = before.slot(6)
    after = excluding((2, bad))
    assert [after.slot(step) for step in range(6)] == [before.slot(step) for step in range(6)]
    assert after.slot(6) == before.slot(7)


@pytest.mark.parametrize("bad", [(-1,), (3, 2), (4, 4)])
def test_exclusions_are_increasing_slots(bad):
    with pytest.raises(ValueError, match="increasing"):
        excluding(bad)


def test_nothing_to_order():
    with pytest.raises(ValueError, match="0 rows"):
        excluding((), num_rows=0)


def test_description_is_json_and_fixes_the_rows():
    description = excluding((3,)).describe()
    assert json.loads(json.dumps(description)) == description
    assert description == {
        "kind": "rows",
        "seed": 1,
        "shuffle": True,
        "num_rows": 22,
        "global_batch_size": 4,
    }
