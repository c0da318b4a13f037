"""Which rows are in batch N: a function of the seed and N, so resuming is arithmetic."""

from dataclasses import dataclass

import numpy as np

from jaxdp.data.permutation import permute


@dataclass(frozen=True, kw_only=True)
class RowOrder:
    """The endless sequence of rows that training reads, epoch after epoch.

    Row `r` of batch `step` stands at position `step * global_batch_size + r` of
    the sequence. Each epoch holds every row once; a batch may reach over the end
    of an epoch, so none is short. Steps count batches consumed, from 0:
    checkpoint N has step N, and the next batch is batch(N).
    """

    num_rows: int  # rows of the training data
    global_batch_size: int
    seed: int
    shuffle: bool  # a new order each epoch; False: the rows as they come

    def rows(self, step: int, row_ids: np.ndarray) -> np.ndarray:
        """Rows of the data at some places of one batch.

        Args:
            step: the batch.
            row_ids: [n] int32, places in the batch: range(global_batch_size).

        Returns:
            [n] int64 in range(num_rows).
        """
        positions = step * self.global_batch_size + np.asarray(row_ids, np.int64)
        epochs, rows = np.divmod(positions, self.num_rows)
        if not self.shuffle:
            return rows
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = permute(rows[here], self.num_rows, key=("epoch", self.seed, int(epoch)))
        return rows
