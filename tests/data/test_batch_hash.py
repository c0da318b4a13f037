import numpy as np
import pytest

from jaxdp.data.batch_hash import batch_hash

MASK = 2**64 - 1


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    return {
        "tokens": generator.integers(0, 1000, (12, 7)).astype(np.int32),
        "loss_weights": generator.random((12, 7)).astype(np.float32),
        "labels": generator.integers(0, 2, 12).astype(bool),
        "attention_mask": generator.integers(0, 2, (12, 3, 5)).astype(bool),
    }


ROW_IDS = np.arange(12, dtype=np.int32)


GOLDEN = 11362613191256963533
"""Runs recorded such hashes in `data/batch_hash`: they must not change."""


def test_hash_of_a_fixed_batch():
    batch = {
        "tokens": np.arange(84, dtype=np.int32).reshape(12, 7),
        "loss_weights": np.linspace(0, 1, 84, dtype=np.float32).reshape(12, 7),
        "labels": np.arange(12) % 3 == 0,
    }
    assert batch_hash(batch, ROW_IDS) == GOLDEN


def test_shares_add_up(batch):
    whole = batch_hash(batch, ROW_IDS)
    assert 0 <= whole <= MASK
    generator = np.random.default_rng(1)
    for num_shares in (2, 3, 4, 12):
        shares = np.split(generator.permutation(12), num_shares)
        parts = [batch_hash({k: v[share] for k, v in batch.items()}, ROW_IDS[share]) for share in shares]
        assert sum(parts) & MASK == whole


def test_order_of_names_and_row_ids_inside_do_not_matter(batch):
    whole = batch_hash(batch, ROW_IDS)
    assert batch_hash(dict(reversed(batch.items())), ROW_IDS) == whole
    assert batch_hash({**batch, "row_ids": ROW_IDS}, ROW_IDS) == whole


def test_layout_in_memory_does_not_matter(batch):
    fortran = {name: np.asfortranarray(array) for name, array in batch.items()}
    assert batch_hash(fortran, ROW_IDS) == batch_hash(batch, ROW_IDS)


def test_every_change_shows(batch):
    hashes = {batch_hash(batch, ROW_IDS)}

    def add(changed, row_ids=ROW_IDS):
        before = len(hashes)
        hashes.add(batch_hash(changed, row_ids))
        assert len(hashes) == before + 1

    for name, array in batch.items():
        for place in np.ndindex(array.shape):
            edited = array.copy()
            edited[place] = not edited[place] if array.dtype == bool else edited[place] + 1
            add({**batch, name: edited})
    swapped = [1, 0, *range(2, 12)]
    add({name: array[swapped] for name, array in batch.items()})  # two rows change places
    add({**batch, "tokens": batch["tokens"][swapped]})
    add({**batch, "tokens": batch["tokens"][:, ::-1]})
    add({**batch, "tokens": batch["tokens"].astype(np.int64)})
    add({**batch, "tokens": batch["tokens"].view(np.float32)})  # the same bytes
    add({**batch, "tokens": batch["tokens"].reshape(12, 7, 1)})
    add({("targets" if name == "tokens" else name): array for name, array in batch.items()})
    add(batch, ROW_IDS + np.int32(1))
