"""Rows of data as the host batches of one process, and what resuming must agree on.

The task's `make_batch(examples, seed, step, row_ids)` turns rows into arrays; its
randomness (masking) is a function of seed, step and row number, so a batch is
the same whatever process makes it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxdp.data.samplers.epochs import Sampler
from jaxdp.data.samplers.shards import process_row_ids
from jaxdp.errors import UserError
from jaxdp.nested import differences
from jaxdp.typing import HostBatch

FORMAT = 2  # of the data state

MakeBatch = Callable[[HostBatch, int, int, np.ndarray], HostBatch]
"""(examples `[rows, ...]`, seed, step, row_ids `[rows] int32`) -> arrays `[rows, ...]`."""


class SequenceDataset(Protocol):
    """Rows by number."""

    num_rows: int

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Arrays `[n, ...]` for `[n]` row numbers.

        One of them is `num_tokens` [n] int32; a row with 0 counts for nothing.
        """


def train_batches(
    source: SequenceDataset,
    make_batch: MakeBatch,
    order: Sampler,
    *,
    partition: str,
    num_processes: int,
    process_index: int,
    start_step: int,
) -> Iterator[HostBatch]:
    """One process's share of batch(start_step), batch(start_step + 1), ... without end.

    Yields:
        What `make_batch` gives, and `row_ids` [rows] int32: each row's number in
        the global batch.

    Raises:
        UserError: see `process_row_ids`, at the first batch.
    """
    step = start_step
    while True:
        row_ids = process_row_ids(
            partition,
            global_batch_size=order.global_batch_size,
            num_processes=num_processes,
            process_index=process_index,
            seed=order.seed,
            step=step,
        )
        examples = source.rows(order.rows(step, row_ids))
        yield {**make_batch(examples, order.seed, step, row_ids), "row_ids": row_ids}
        step += 1


def eval_batches(
    source: SequenceDataset,
    make_batch: MakeBatch,
    *,
    global_batch_size: int,
    num_processes: int,
    process_index: int,
    num_batches: int,
) -> Iterator[HostBatch]:
    """One process's share of a whole split, in order; every process yields equally many.

    The last batch is filled up with rows of `num_tokens` 0, to which `make_batch`
    gives no weight. Seed and step are 0 and a row's number is its place in the
    split, so that whatever `make_batch` draws is the same at every evaluation
    and for every batch size.

    Args:
        num_batches: stop after so many; 0: the whole split.

    Yields:
        What `make_batch` gives, and `row_ids` [rows] int32: each row's place in the
        split; of rows that fill up, source.num_rows or more.
    """
    whole = -(-source.num_rows // global_batch_size)
    for batch in range(min(num_batches, whole) if num_batches else whole):
        row_ids = process_row_ids(
            "block",
            global_batch_size=global_batch_size,
            num_processes=num_processes,
            process_index=process_index,
            seed=0,
            step=0,
        )
        row_ids = row_ids + np.int32(batch * global_batch_size)
        is_row = row_ids < source.num_rows
        examples = source.rows(np.where(is_row, row_ids, 0))
        num_tokens = examples["num_tokens"] * is_row
        batch = make_batch({**examples, "num_tokens": num_tokens}, 0, 0, row_ids)
        yield {**batch, "row_ids": row_ids}


def data_state(order: Sampler, fingerprint: str, step: int, cleaning: Sequence[str] = ()) -> dict[str, Any]:
    """What a checkpoint says about the data: small, JSON, the same on every host.

    Args:
        order: gives the batches.
        fingerprint: of the data that its rows are of.
        step: batches consumed; the next one is batch(step).
        cleaning: identity of each step that changed the texts, see `Cleaner`.
    """
    return {
        "format": FORMAT,
        "step": step,
        "fingerprint": fingerprint,
        "order": order.describe(),
        "exclusions": list(order.exclusions),
        **({"cleaning": list(cleaning)} if cleaning else {}),
    }


def check_data_state(saved: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Checks that a run continues on the data it began with.

    Args:
        saved: the checkpoint's data state.
        expected: `data_state` of this run at the checkpoint's step.

    Raises:
        UserError: lists each value that differs, both sides.
    """
    saved, expected = _flat(saved), _flat(expected)
    if "cleaning" not in saved:  # written before jaxdp recorded it
        expected.pop("cleaning", None)
    changes = [f"{key}: {old} in the checkpoint, {new} now" for key, old, new in sorted(differences(saved, expected))]
    if changes:
        raise UserError(
            f"The checkpoint was trained on other data than this run has ({'; '.join(changes)}): "
            "restore the data, the Python version (data.source=stdlib) and the data.*, seed and "
            "global_batch_size keys it began with, or start anew in another --workdir."
        )


def _flat(state: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the order beside the others."""
    return {**state, **state.get("order", {}), "order": None}
