"""Labelled data whose classes are of unequal size: an order that evens them out."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxdp.data.samplers.mixture import MixtureSampler


@dataclass(frozen=True, kw_only=True)
class BalancedSampler(MixtureSampler):
    """A mixture whose groups are classes: rare ones come again and again.

    Made by `balanced_sampler`. Takes 8 bytes of memory a row.
    """

    by_class: np.ndarray = field(repr=False, compare=False)
    """[num_rows] int64: the rows of class 0 in order, then those of class 1, ..."""

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        return self.by_class[super().rows_at(positions)]

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"kind": "balanced"}


def balanced_sampler(
    labels: np.ndarray,
    num_classes: int,
    *,
    global_batch_size: int,
    seed: int,
    shuffle: bool,
    exclusions: tuple[int, ...] = (),
) -> BalancedSampler:
    """An order in which all classes that have an example come in equal shares.

    Args:
        labels: [num_rows] integers in range(num_classes), one a row; one or more.
        num_classes: 1 or more.
        global_batch_size, seed, shuffle, exclusions: see `Sampler`.
    """
    counts = np.bincount(labels, minlength=num_classes)
    return BalancedSampler(
        sizes=tuple(counts.tolist()),
        weights=tuple((counts > 0).astype(float).tolist()),
        by_class=np.argsort(labels, kind="stable"),
        global_batch_size=global_batch_size,
        seed=seed,
        shuffle=shuffle,
        exclusions=exclusions,
    )
