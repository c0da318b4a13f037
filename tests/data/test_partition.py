import numpy as np
import pytest

from jaxdp.data.partition import PARTITIONS, process_rows
from jaxdp.errors import UserError


def deal(partition, num_processes, batch=24, seed=0, step=0):
    return [
        process_rows(
            partition,
            global_batch_size=batch,
            num_processes=num_processes,
            process_index=index,
            seed=seed,
            step=step,
        ).tolist()
        for index in range(num_processes)
    ]


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("num_processes", [1, 2, 3, 4, 24])
def test_disjoint_complete_and_equal(partition, num_processes):
    for step in range(3):
        shares = deal(partition, num_processes, step=step)
        assert {len(share) for share in shares} == {24 // num_processes}
        assert sorted(row for share in shares for row in share) == list(range(24))


def test_block_and_strided():
    assert deal("block", 2, batch=6) == [[0, 1, 2], [3, 4, 5]]
    assert deal("strided", 2, batch=6) == [[0, 2, 4], [1, 3, 5]]


def test_random_differs_by_step_and_seed():
    deals = [deal("random", 2, seed=seed, step=step) for seed in (0, 1) for step in (0, 1)]
    assert len({str(shares) for shares in deals}) == 4
    assert deal("random", 2) == deal("random", 2)


def test_dtype():
    rows = process_rows(
        "random", global_batch_size=4, num_processes=2, process_index=0, seed=0, step=0
    )
    assert rows.dtype == np.int32


def test_errors():
    with pytest.raises(UserError, match=r"data\.partition='rows'.*block, strided, random"):
        deal("rows", 2)
    with pytest.raises(UserError, match=r"global_batch_size=24.*5 processes.*multiple of 5"):
        deal("block", 5)
