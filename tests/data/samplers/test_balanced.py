import json

import numpy as np
import pytest

from jaxdp.data.samplers.balanced import balanced_sampler
from jaxdp.data.samplers.mixture import MixtureSampler

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [600, 90, 10]))  # none of class 2


def balanced(**changes):
    options = {"global_batch_size": 30, "seed": 1, "shuffle": True} | changes
    return balanced_sampler(LABELS, 4, **options)


def rows_of(order, num_steps):
    places = np.arange(order.global_batch_size, dtype=np.int32)
    return np.concatenate([order.rows(step, places) for step in range(num_steps)])


def test_classes_come_in_equal_shares():
    order = balanced(global_batch_size=1000)
    assert order.quotas == (334, 333, 0, 333)
    for step in range(3):
        labels = LABELS[order.rows(step, np.arange(1000))]
        assert np.bincount(labels, minlength=4).tolist() == [334, 333, 0, 333]
    assert order.shares(2, 5).tolist() == [3 * 334, 999, 0, 999]


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_of_a_class_comes_before_one_comes_again(shuffle):
    rows = rows_of(balanced(shuffle=shuffle), 100)
    for label, size in ((0, 600), (1, 90), (3, 10)):
        members = np.flatnonzero(label == LABELS)
        of_class = rows[LABELS[rows] == label]
        whole = len(of_class) // size
        assert whole >= 1
        for epoch in of_class[: whole * size].reshape(whole, size):
            np.testing.assert_array_equal(np.sort(epoch), members)
            assert shuffle or epoch.tolist() == members.tolist()


def test_is_a_mixture_of_the_classes():
    order = balanced(exclusions=(1,))
    plain = MixtureSampler(
        sizes=(600, 90, 0, 10),
        weights=(1, 1, 0, 1),
        global_batch_size=30,
        seed=1,
        shuffle=True,
        exclusions=(1,),
    )
    by_class = np.argsort(LABELS, kind="stable")
    np.testing.assert_array_equal(rows_of(order, 40), by_class[rows_of(plain, 40)])
    assert (order.num_rows, order.seed, order.slot(1)) == (700, 1, 2)
    description = order.describe()
    assert json.loads(json.dumps(description)) == description
    assert description == plain.describe() | {"kind": "balanced"}
