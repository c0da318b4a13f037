import numpy as np
import pytest

from jaxdp.data.order import RowOrder
from jaxdp.data.permutation import permute


def sequence(order, num_steps):
    places = np.arange(order.global_batch_size, dtype=np.int32)
    return np.concatenate([order.rows(step, places) for step in range(num_steps)])


@pytest.mark.parametrize("num_rows, batch", [(12, 4), (13, 4), (3, 8), (1, 5), (1000, 7)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_each_epoch_holds_each_row_once(num_rows, batch, shuffle):
    order = RowOrder(num_rows=num_rows, global_batch_size=batch, seed=1, shuffle=shuffle)
    rows = sequence(order, -(-3 * num_rows // batch))
    for epoch in range(3):
        here = rows[epoch * num_rows : (epoch + 1) * num_rows]
        assert sorted(here) == list(range(num_rows))
        if not shuffle:
            assert here.tolist() == list(range(num_rows))


def test_epochs_and_seeds_have_their_own_order():
    orders = [
        RowOrder(num_rows=50, global_batch_size=10, seed=seed, shuffle=True) for seed in (0, 1)
    ]
    epochs = {tuple(sequence(order, 10)[i : i + 50]) for order in orders for i in (0, 50)}
    assert len(epochs) == 4


def test_position_arithmetic_far_away():
    order = RowOrder(num_rows=10**9, global_batch_size=4096, seed=3, shuffle=True)
    step = 10**7
    position = step * 4096 + 17
    expected = permute(np.array([position % 10**9]), 10**9, ("epoch", 3, position // 10**9))
    np.testing.assert_array_equal(order.rows(step, np.array([17], np.int32)), expected)
