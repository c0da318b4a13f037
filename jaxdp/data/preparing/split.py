"""Split position between training and validation data, computed from character counts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxdp.errors import UserError


class SplitPosition(NamedTuple):
    """Position of the split: records before it are trained on, the rest is the validation split.

    Positions compare like tuples. A record is entirely in the training split if `(part, record + 1, 0) <= position`, and
    entirely in the validation split if `(part, record, 0) >= position`; at most one record is in neither.

    Attributes:
        part: Index of a part.
        record: Index of a record in it, as it was read; records that cleaning drops count.
        character: Index of a character in its text.
    """

    part: int
    record: int
    character: int


def check_fraction(eval_fraction: float) -> None:
    """Raises UserError if a fraction is not between 0 and 1."""
    if not 0 < eval_fraction < 1:
        raise UserError(f"data.eval_fraction={eval_fraction} is out of range: expected more than 0, less than 1.")


def split_point(num_items: int, eval_fraction: float) -> int:
    """Returns the number of items before the last `eval_fraction` of them.

    Raises:
        UserError: The fraction is not between 0 and 1, or one side is empty.
    """
    check_fraction(eval_fraction)
    point = int(num_items * (1 - eval_fraction))
    if not 0 < point < num_items:
        raise UserError(
            f"data.eval_fraction={eval_fraction} of {num_items} characters or tokens leaves nothing "
            "to train on or to evaluate on: give more data or change data.eval_fraction."
        )
    return point


def split_parts(
    part_characters: Sequence[int],
    record_characters: Sequence[int],
    record_continues: Sequence[int],
    eval_fraction: float,
) -> SplitPosition:
    """Finds the position of the last `eval_fraction` of the characters; both sides have some.

    Several parts are split between two parts, at the boundary nearest to the target. One part of several documents is split
    between two documents in the same way. One part with a single document is cut at a character.

    Args:
        part_characters: [num_parts] characters of each part, 0 if cleaning left none.
        record_characters: [num_records] characters of each record of the only part that has some; unused if several have.
        record_continues: [num_records] `Record.continues` of the same records.
        eval_fraction: Share of the characters for validation.

    Raises:
        UserError: See `split_point`.
    """
    parts = np.asarray(part_characters, np.int64)
    point = split_point(int(parts.sum()), eval_fraction)
    if np.count_nonzero(parts) > 1:
        return SplitPosition(_nearest(np.cumsum(parts), point), 0, 0)
    [part] = np.flatnonzero(parts)
    ends = np.cumsum(np.asarray(record_characters, np.int64))
    if ends.size == 0 or ends[-1] != parts[part]:
        raise ValueError(f"records have {ends[-1:]} characters, their part has {parts[part]}")
    is_end = ~np.asarray(record_continues, bool)
    document_ends = np.flatnonzero(is_end)
    if np.count_nonzero(np.diff(ends[document_ends], prepend=0)) > 1:
        document = _nearest(ends[document_ends], point)
        return SplitPosition(int(part), int(document_ends[document - 1]) + 1, 0)
    record = int(np.searchsorted(ends, point, side="right"))
    return SplitPosition(int(part), record, point - int(ends[record - 1] if record else 0))


def _nearest(ends: np.ndarray, point: int) -> int:
    """Returns the number of items before the boundary nearest to a point, with some characters on each side.

    Args:
        ends: [num_items] characters up to the end of each item, not decreasing.
        point: Number of characters.
    """
    inner = np.flatnonzero((ends > 0) & (ends < ends[-1]))
    return int(inner[np.argmin(np.abs(ends[inner] - point))]) + 1
