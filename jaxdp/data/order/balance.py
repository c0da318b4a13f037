"""Labelled data whose classes are of unequal size: an order that evens them out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxdp.data.order.mixture import MixtureOrder
from jaxdp.errors import UserError


@dataclass(frozen=True, kw_only=True)
class BalancedOrder(MixtureOrder):
    """A mixture whose groups are classes: rare ones come again and again.

    Made by `balanced_order`. Takes 8 bytes of memory a row.
    """

    by_class: np.ndarray = field(repr=False, compare=False)
    """[num_rows] int64: the rows of class 0 in order, then those of class 1, ..."""

    def rows_at(self, positions: np.ndarray) -> np.ndarray:
        return self.by_class[super().rows_at(positions)]

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"kind": "balanced"}


def balanced_order(
    labels: np.ndarray,
    num_classes: int,
    shares: Sequence[float] | None = None,
    *,
    global_batch_size: int,
    seed: int,
    shuffle: bool,
    exclusions: tuple[int, ...] = (),
) -> BalancedOrder:
    """An order in which classes come in equal, or given, shares.

    Args:
        labels: [num_rows] integers in range(num_classes), one a row.
        num_classes: 1 or more.
        shares: of each class, 0 or more, only the ratios matter; None: equal for all
            classes that have an example.
        global_batch_size, seed, shuffle, exclusions: see `Order`.

    Raises:
        UserError: a label outside range(num_classes), no labels, shares that are
            none, or a share for a class without examples.
    """
    counts = count_classes(labels, num_classes)
    if shares is None:
        shares = [float(count > 0) for count in counts]
    if len(shares) != num_classes or not all(0 <= share < np.inf for share in shares) or not any(shares):
        raise UserError(
            f"The class shares are {tuple(shares)}: expected {num_classes} numbers, one a class, of 0 "
            "or more and not all 0."
        )
    for label, (share, count) in enumerate(zip(shares, counts, strict=True)):
        if share and not count:
            raise UserError(
                f"Class {label} shall have a share of {share} but no example of it is in the "
                "training data: give it share 0, or give examples."
            )
    return BalancedOrder(
        sizes=tuple(counts.tolist()),
        weights=tuple(float(share) for share in shares),
        by_class=np.argsort(labels, kind="stable"),
        global_batch_size=global_batch_size,
        seed=seed,
        shuffle=shuffle,
        exclusions=exclusions,
    )


def count_classes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Examples of each class: `[num_classes] int64`.

    Raises:
        UserError: a label outside range(num_classes), or no labels.
    """
    labels = np.asarray(labels)
    if not labels.size:
        raise UserError("The training data has no labels to balance: expected one example or more.")
    if outside := np.flatnonzero((labels < 0) | (labels >= num_classes))[:1].tolist():
        raise UserError(
            f"Example {outside[0]} (from 0) has label {labels[outside[0]]}: expected labels from 0 to "
            f"{num_classes - 1}; mend the label, or raise the number of classes."
        )
    return np.bincount(labels, minlength=num_classes)
