"""Host batches of one process, from a dataset of sequences, and the data state of a checkpoint.

The task's `make_batch(examples, seed, step, row_ids)` turns sequences into arrays. Its random numbers (masking) are a
function of seed, step and row number, so every process makes the same batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from jaxdp.arguments import shown
from jaxdp.data.samplers.epochs import Sampler
from jaxdp.data.samplers.shards import process_row_ids
from jaxdp.errors import UserError
from jaxdp.nearest import closest
from jaxdp.nested import differences
from jaxdp.signatures import defined_in
from jaxdp.typing import HostBatch

FORMAT = 2  # of the data state

_ON_DEVICES = {"int64": "int32", "uint64": "uint32", "float64": "float32"}
"""Dtypes that devices receive in place of those of 64 bits."""

MakeBatch = Callable[[HostBatch, int, int, np.ndarray], HostBatch]
"""Function (examples `[rows, ...]`, seed, step, row_ids `[rows] int32`) -> arrays `[rows, ...]`."""


class SequenceDataset(Protocol):
    """Map-style dataset of token sequences, each a row of the arrays that it returns."""

    num_rows: int

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns arrays `[n, ...]` for `[n]` row numbers.

        One of them is `num_tokens` [n] int32; a row with 0 has no weight.
        """
        ...


def with_first_check(make_batch: MakeBatch, batch_spec: Callable[[int], Mapping[str, Any]]) -> MakeBatch:
    """Returns a task's `make_batch` with a check of the first batch that it makes.

    The returned function raises UserError if the arrays differ from `batch_spec`.

    Args:
        make_batch: Method of the task.
        batch_spec: Function from the number of rows to shapes and dtypes by name.
    """
    is_checked = False

    def make(examples: HostBatch, seed: int, step: int, row_ids: np.ndarray) -> HostBatch:
        nonlocal is_checked
        batch = make_batch(examples, seed, step, row_ids)
        if not is_checked:
            check_batch(f"make_batch of the task{defined_in(make_batch)}", batch, batch_spec(len(row_ids)))
            is_checked = True
        return batch

    return make


def check_batch(what: str, batch: Any, spec: Mapping[str, Any]) -> None:
    """Checks names, shapes and dtypes of a batch; 64-bit numbers count as those of 32 bits, which devices receive.

    Args:
        what: The function that made it, for the message.
        batch: Arrays by name.
        spec: Expected shapes and dtypes by name.

    Raises:
        UserError: They differ.
    """
    if not isinstance(batch, Mapping):
        raise UserError(f"{what} must return a dict of arrays, those of batch_spec, found {shown(batch)}.")
    for name in spec:
        if name not in batch:
            match = closest(name, [own for own in batch if own not in spec])
            raise UserError(
                f"{what} returns no {name!r}, which batch_spec has{f', but {match!r}' if match else ''}: "
                "use the same names in both."
            )
    for name, array in batch.items():
        if name not in spec:
            raise UserError(f"{what} returns {name!r}, which batch_spec has not: use the same names in both.")
        expected, found = _described(spec[name]), _described(array)
        if found != expected:
            raise UserError(f"{what}: {name!r} is {found}, but batch_spec has {expected}: make them equal.")


def _described(array: Any) -> str:
    """Returns the shape and dtype of an array as a device receives it, e.g. "int32 [8, 16]"."""
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        return f"no array but {shown(array)}"
    dtype = str(array.dtype)
    dtype = _ON_DEVICES.get(dtype, dtype)
    return f"{dtype} {list(array.shape)}"


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
    """Yields the share of one process of batch(start_step), batch(start_step + 1), ... without end.

    Args:
        source: Training sequences.
        make_batch: Function of the task, see `MakeBatch`.
        order: Sampler of the rows of each batch.
        partition: Shard assignment, see `process_row_ids`.
        num_processes: Number of processes.
        process_index: Index of this process.
        start_step: Step of the first batch.

    Yields:
        The arrays of `make_batch`, and `row_ids` [rows] int32, the number of each row in the global batch.

    Raises:
        UserError: See `process_row_ids`, at the first batch.
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
    """Yields the share of one process of a whole split, in order; all processes yield the same number of batches.

    The last batch is filled with rows of `num_tokens` 0, to which `make_batch` gives no weight. Seed and step are 0 and
    the number of a row is its position in the split, so the random numbers of `make_batch` are the same at every
    evaluation and for every batch size.

    Args:
        source: Sequences of the split.
        make_batch: Function of the task, see `MakeBatch`.
        global_batch_size: Rows of a batch, over all processes.
        num_processes: Number of processes.
        process_index: Index of this process.
        num_batches: Maximum number of batches; 0: the whole split.

    Yields:
        The arrays of `make_batch`, and `row_ids` [rows] int32, the position of each row in the split; for rows that fill
        the last batch, source.num_rows or more.
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
    """Returns the data state of a checkpoint: small, JSON, the same on every host.

    Args:
        order: Sampler of the training batches.
        fingerprint: Fingerprint of the training data.
        step: Number of batches consumed; the next one is batch(step).
        cleaning: Identity of each step that changed the texts, see `Cleaner`.
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
        saved: Data state of the checkpoint.
        expected: `data_state` of this run at the step of the checkpoint.

    Raises:
        UserError: Lists each value that differs, with both sides.
    """
    saved, expected = _flat(saved), _flat(expected)
    if "cleaning" not in saved:  # written before jaxdp recorded it
        expected.pop("cleaning", None)
    changes = [f"{key}: {old} in the checkpoint, {new} now" for key, old, new in sorted(differences(saved, expected))]
    if changes:
        raise UserError(
            f"The checkpoint was trained on other data than this run has ({'; '.join(changes)}): "
            "restore the data, the Python version (data.source=stdlib) and the data.*, seed and "
            "global_batch_size keys it began with, or start a new run in another --workdir."
        )


def _flat(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a data state with the values of its order at the top level."""
    return {**state, **state.get("order", {}), "order": None}
