import jax
import numpy as np
import pytest

from jaxdp.data.samplers.shards import PARTITIONS, process_row_ids
from jaxdp.errors import UserError
from jaxdp.parallel.devices import Topology
from jaxdp.parallel.placement import place_batch


def deal(partition, num_processes, batch=24, seed=0, step=0):
    return [
        process_row_ids(
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


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("batch", [1, 2, 6, 8, 12, 48, 97, 4096])
def test_every_batch_size_on_every_number_of_processes_and_devices(partition, batch):
    for num_processes in (n for n in (1, 2, 3, 4, 6, 8, 16, 97) if batch % n == 0):
        for step in (0, 1, 2, 1000, 10**9):
            shares = np.array(deal(partition, num_processes, batch, seed=7, step=step))
            assert shares.shape == (num_processes, batch // num_processes)
            np.testing.assert_array_equal(np.sort(shares, axis=None), np.arange(batch))
            if partition == "strided":
                owners = np.broadcast_to(np.arange(num_processes)[:, None], shares.shape)
                np.testing.assert_array_equal(shares % num_processes, owners)
            for num_devices in (n for n in (1, 2, 4) if shares.shape[1] % n == 0):
                if partition == "block":  # the same as if every device had a process of its own
                    alone = deal(partition, num_processes * num_devices, batch, seed=7, step=step)
                    np.testing.assert_array_equal(shares.reshape(len(alone), -1), alone)


@pytest.mark.parametrize("partition", PARTITIONS)
def test_devices_get_the_rows_that_their_process_was_assigned(partition):
    """What `place_batch` puts on each device, against its assignment."""
    devices = tuple(jax.devices()[:4])
    here = Topology(devices, num_processes=1, process_index=0)
    [share] = deal(partition, 1, batch=12, step=3)
    placed = place_batch({"row_ids": np.array(share, np.int32)}, here)["row_ids"]
    by_device = {shard.device: np.asarray(shard.data).ravel() for shard in placed.addressable_shards}
    for number, device in enumerate(devices):
        assert by_device[device].tolist() == share[3 * number : 3 * number + 3]


def test_block_and_strided():
    assert deal("block", 2, batch=6) == [[0, 1, 2], [3, 4, 5]]
    assert deal("strided", 2, batch=6) == [[0, 2, 4], [1, 3, 5]]


def test_random_differs_by_step_and_seed():
    deals = [deal("random", 2, seed=seed, step=step) for seed in (0, 1) for step in (0, 1)]
    assert len({str(shares) for shares in deals}) == 4
    assert deal("random", 2) == deal("random", 2)


def test_dtype():
    rows = process_row_ids("random", global_batch_size=4, num_processes=2, process_index=0, seed=0, step=0)
    assert rows.dtype == np.int32


def test_errors():
    with pytest.raises(UserError, match=r"data\.partition='rows'.*block, strided, random"):
        deal("rows", 2)
    with pytest.raises(UserError, match=r"global_batch_size=24.*5 processes.*multiple of 5"):
        deal("block", 5)
