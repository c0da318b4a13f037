"""Sampler: the rows of batch N as a function of seed and N, so that resuming is arithmetic; epochs without mixing."""

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdp.data.samplers.permutation import permute_each


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """Endless order of rows, cut into batches.

    The order is cut into slots of global_batch_size rows. Batch `step` is slot `step`, or a later one if slots before it
    are excluded. Steps count batches consumed, from 0: checkpoint N has step N, and the next batch is batch(N).

    Subclasses have `num_rows`, the number of rows of the training data, which make an epoch.
    """

    global_batch_size: int
    seed: int
    shuffle: bool  # a new order each epoch; False: the order of the data
    exclusions: tuple[int, ...] = ()  # slots that are skipped, increasing

    def _check(self, num_rows: int) -> None:
        """Raises ValueError if the fields describe no order; every subclass calls it in `__post_init__`."""
        if num_rows < 1 or self.global_batch_size < 1:
            raise ValueError(f"{num_rows} rows in batches of {self.global_batch_size}")
        if any(a >= b for a, b in itertools.pairwise((-1, *self.exclusions))):
            raise ValueError(f"exclusions={self.exclusions}, expected increasing numbers from 0 up")

    def slot(self, step: int) -> int:
        """Returns the slot of batch `step`: the step-th slot, from 0, that is not excluded."""
        slot = step
        for excluded in self.exclusions:
            if excluded > slot:
                break
            slot += 1
        return slot

    def rows(self, step: int, row_ids: np.ndarray) -> np.ndarray:
        """Returns the rows of the dataset at some positions of a batch.

        Args:
            step: Step of the batch.
            row_ids: [n] int32, positions in the batch, in range(global_batch_size).

        Returns:
            [n] int64 in range(num_rows).
        """
        first = self.slot(step) * self.global_batch_size
        return self.rows_at(first + np.asarray(row_ids, np.int64))

    @abstractmethod
    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        """Maps [n] int64 positions in the order to [n] int64 rows."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Returns JSON values that determine the order; with `exclusions`, every batch."""


@dataclass(frozen=True, kw_only=True)
class EpochSampler(Sampler):
    """Sampler of every row once per epoch; a batch may span two epochs, so that every batch is full."""

    num_rows: int

    def __post_init__(self):
        self._check(self.num_rows)

    def positions_in_epochs(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Splits [n] positions into epochs and positions within them, [n] int64 each."""
        epochs, offsets = np.divmod(positions, self.num_rows)
        return epochs, offsets

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        """Maps positions to rows, see `Sampler.rows_at`."""
        epochs, offsets = self.positions_in_epochs(positions)
        if not self.shuffle:
            return offsets
        these, which = np.unique(epochs, return_inverse=True)
        keys = [("epoch", self.seed, epoch) for epoch in these.tolist()]
        return permute_each(offsets, which, [self.num_rows] * len(keys), keys)

    def describe(self) -> dict[str, Any]:
        """Describes the order, see `Sampler.describe`."""
        return {
            "kind": "rows",
            "seed": self.seed,
            "shuffle": self.shuffle,
            "num_rows": self.num_rows,
            "global_batch_size": self.global_batch_size,
        }
