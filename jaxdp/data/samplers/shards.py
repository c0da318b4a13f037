"""Shard assignment: the rows of each global batch that a process holds (`data.partition`)."""

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
    """Assigns rows of batch `step` to one process.

    The shards of all processes are disjoint, complete and of equal size.

    Args:
        partition: `block`: consecutive rows; `strided`: every num_processes-th row; `random`: a different assignment
            at each step.
        global_batch_size: Rows of the batch, a multiple of num_processes.
        num_processes: Number of processes that share the batch.
        process_index: Index of the process.
        seed: Seed of the run; used by `random` only.
        step: Step of the batch; used by `random` only.

    Returns:
        [process_batch_size] int32 in range(global_batch_size).

    Raises:
        UserError: The partition is unknown, or the number of processes does not divide the batch.
    """
    if partition not in PARTITIONS:
        raise UserError(f"data.partition={partition!r} is unknown: expected {', '.join(PARTITIONS)}.")
    process_batch_size, remainder = divmod(global_batch_size, num_processes)
    if remainder:
        raise UserError(
            f"global_batch_size={global_batch_size} cannot be split evenly over {num_processes} "
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
