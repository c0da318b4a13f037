"""How the rows of a global batch are dealt to processes; never which rows are in it."""

import numpy as np

from jaxdp.data.samplers.permutation import permute
from jaxdp.errors import UserError

PARTITIONS = ("block", "strided", "random")


def process_row_ids(
    partition: str,
    *,
    global_batch_size: int,
    num_processes: int,
    process_index: int,
    seed: int,
    step: int,
) -> np.ndarray:
    """The rows of batch `step` that one process holds.

    Over all processes they are disjoint and complete, and equally many.

    Args:
        partition: `block`: neighbours together; `strided`: every
            num_processes-th; `random`: another deal at each step.
        global_batch_size: rows of the batch; a multiple of num_processes.
        num_processes: processes that share the batch.
        process_index: the one asked for.
        seed: used by `random` only, as is `step`.
        step: the batch.

    Returns:
        [process_batch_size] int32 in range(global_batch_size).

    Raises:
        UserError: an unknown partition, or processes that do not divide the batch.
    """
    if partition not in PARTITIONS:
        raise UserError(
            f"data.partition={partition!r} is unknown: expected {', '.join(PARTITIONS)}."
        )
    process_batch_size, remainder = divmod(global_batch_size, num_processes)
    if remainder:
        raise UserError(
            f"global_batch_size={global_batch_size} cannot be dealt evenly to {num_processes} "
            f"processes: set global_batch_size to a multiple of {num_processes}."
        )
    if partition == "strided":
        rows = np.arange(process_index, global_batch_size, num_processes)
    else:
        start = process_index * process_batch_size
        rows = np.arange(start, start + process_batch_size)
    if partition == "random":
        rows = permute(rows, global_batch_size, key=("partition", seed, step))
    return rows.astype(np.int32)
