"""Which rows are in batch N: a function of the seed and N, so resuming is arithmetic."""

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdp.data.samplers.permutation import permute_each


@dataclass(frozen=True, kw_only=True)
class Sampler(ABC):
    """An endless sequence of rows, cut into batches.

    The sequence is cut into slots of global_batch_size rows; batch `step` is what
    lies in slot `step`, or further on where slots before it are excluded. Steps
    count batches consumed, from 0: checkpoint N has step N, and the next batch is
    batch(N).

    Every order has `num_rows` too, the rows of the training data: so many make an epoch.
    """

    global_batch_size: int
    seed: int
    shuffle: bool  # a new order each epoch; False: the rows as they come
    exclusions: tuple[int, ...] = ()  # slots that no batch is read from, increasing

    def __post_init__(self):
        if self.num_rows < 1 or self.global_batch_size < 1:
            raise ValueError(f"{self.num_rows} rows in batches of {self.global_batch_size}")
        if any(a >= b for a, b in itertools.pairwise((-1, *self.exclusions))):
            raise ValueError(f"exclusions={self.exclusions}, expected increasing numbers from 0 up")

    def slot(self, step: int) -> int:
        """Where batch `step` lies: the step-th slot, from 0, that is not excluded."""
        slot = step
        for excluded in self.exclusions:
            if excluded > slot:
                break
            slot += 1
        return slot

    def rows(self, step: int, row_ids: np.ndarray) -> np.ndarray:
        """Rows of the data at some places of one batch.

        Args:
            step: the batch.
            row_ids: [n] int32, places in the batch: range(global_batch_size).

        Returns:
            [n] int64 in range(num_rows).
        """
        first = self.slot(step) * self.global_batch_size
        return self.rows_at(first + np.asarray(row_ids, np.int64))

    @abstractmethod
    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        """[n] int64 positions in the sequence -> [n] int64 rows there."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON values that fix the sequence; with `exclusions`, every batch."""


@dataclass(frozen=True, kw_only=True)
class EpochSampler(Sampler):
    """Every row once an epoch; a batch may reach over the end of one, so none is short."""

    num_rows: int

    def places(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[n] positions -> the epoch each is in, and its place there: [n] int64 both."""
        epochs, places = np.divmod(positions, self.num_rows)
        return epochs, places

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        epochs, places = self.places(positions)
        if not self.shuffle:
            return places
        these, which = np.unique(epochs, return_inverse=True)
        keys = [("epoch", self.seed, epoch) for epoch in these.tolist()]
        return permute_each(places, which, [self.num_rows] * len(keys), keys)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "rows",
            "seed": self.seed,
            "shuffle": self.shuffle,
            "num_rows": self.num_rows,
            "global_batch_size": self.global_batch_size,
        }
