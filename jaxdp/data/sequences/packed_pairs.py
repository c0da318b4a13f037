"""Packing of sequence-to-sequence pairs: several source-target pairs in one sequence.

A sequence has positions for sources and for targets. Each pair has a segment id of its own, and attention does not
cross segments.
"""

from dataclasses import dataclass

import numpy as np

from jaxdp.data.sequences.element_arrays import count_up
from jaxdp.data.sequences.flat import RaggedArray

MAX_OPEN_ROWS = 1024
"""Number of rows that the next pair may still go into; more hardly fill the rows better."""


@dataclass(frozen=True)
class PairPlan:
    """Assignment of pairs to rows: row r holds pairs[row_offsets[r] : row_offsets[r + 1]].

    Attributes:
        capacity: Positions of a row, for sources and for targets.
        row_offsets: [num_rows + 1] int64.
        pairs: [num_pairs] int64.
        num_tokens: Tokens of sources and of targets, in all rows together.
        num_cut: Number of pairs with a side that is cut.
        num_dropped: Number of pairs that are left out.
    """

    capacity: tuple[int, int]
    row_offsets: np.ndarray
    pairs: np.ndarray
    num_tokens: tuple[int, int]
    num_cut: int
    num_dropped: int

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.row_offsets) - 1

    @property
    def efficiency(self) -> tuple[float, float]:
        """Share of positions that are not padding, of sources and of targets."""
        source, target = (
            tokens / (self.num_rows * capacity) for tokens, capacity in zip(self.num_tokens, self.capacity, strict=True)
        )
        return source, target


def pack_pairs(
    source_lengths: np.ndarray, target_lengths: np.ndarray, capacity: tuple[int, int], pairs: np.ndarray | None = None
) -> PairPlan:
    """Packs pairs into rows, each into the first open row that has room for both sides.

    Pairs come in order, and a new row begins where none has room. At most MAX_OPEN_ROWS rows are open; a new one closes
    the oldest.

    Args:
        source_lengths: [n] integers, tokens of each source with end of text, 1 or more.
        target_lengths: [n] integers, tokens of each target with end of text, 1 or more.
        capacity: Positions of a row, for sources and for targets; longer texts are cut to them.
        pairs: [m] integers in order, the pairs to pack; None: all.

    Source: Garey et al. 1976, Resource Constrained Scheduling as Generalized Bin
    Packing: first fit in several dimensions.
    """
    pairs = np.arange(len(source_lengths)) if pairs is None else np.asarray(pairs, np.int64)
    lengths = np.stack([source_lengths, target_lengths], axis=1)[pairs]
    sizes = np.minimum(lengths, capacity).astype(np.int64)
    # Ring of open rows, the oldest at `oldest`; unused slots have no room.
    room = np.full((2, MAX_OPEN_ROWS), -1, np.int64)
    row_of = np.empty(len(pairs), np.int64)
    num_rows = 0
    for number, (source, target) in enumerate(sizes.tolist()):
        fits = (room[0] >= source) & (room[1] >= target)
        # The first in the order of rows: from the oldest slot on, then from the ring's start.
        oldest = num_rows % MAX_OPEN_ROWS
        slot = oldest + int(fits[oldest:].argmax())
        if not fits[slot]:
            slot = int(fits[:oldest].argmax()) if oldest else 0
        if not fits[slot]:
            slot, num_rows = oldest, num_rows + 1
            room[:, slot] = capacity
        # The row in this slot is the newest whose number has this remainder.
        row_of[number] = num_rows - 1 - (num_rows - 1 - slot) % MAX_OPEN_ROWS
        room[0, slot] -= source
        room[1, slot] -= target
    by_row = np.argsort(row_of, kind="stable")
    return PairPlan(
        capacity,
        np.append(0, np.cumsum(np.bincount(row_of))).astype(np.int64),
        pairs[by_row],
        tuple(sizes.sum(axis=0).tolist()),
        num_cut=int((sizes < lengths).any(axis=1).sum()),
        num_dropped=len(source_lengths) - len(pairs),
    )


class PackedPairs:
    """Sequences of several pairs: a `SequenceDataset`.

    Args:
        plan: Plan from `pack_pairs`.
        sources: Tokens of each source, end of text included.
        targets: Tokens of each target, end of text included.
        start_id: Token that the decoder reads before the first token of each target.

    Attributes:
        num_rows, efficiency, num_cut, num_dropped: See `PairPlan`.
    """

    def __init__(self, plan: PairPlan, sources: RaggedArray, targets: RaggedArray, start_id: int):
        self._plan, self._sources, self._targets, self._start_id = plan, sources, targets, start_id
        self.num_rows = plan.num_rows
        self.efficiency = plan.efficiency
        self.num_cut, self.num_dropped = plan.num_cut, plan.num_dropped

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads sequences by number.

        Args:
            indices: [n] integers in range(num_rows).

        Returns:
            int32 arrays. For sources `tokens`, `segment_ids`, `positions` [n, source capacity]; for targets `target_tokens`
            (the input of the decoder), `targets`, `target_segment_ids`, `target_positions` [n, target capacity]. Segments
            count from 1 and positions from 0; all are 0 in the padding at the end of a row. `num_tokens`,
            `num_target_tokens` [n]: positions that are not padding.

        Raises:
            IndexError: An index is outside range(num_rows).
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_rows:
            raise IndexError(f"row {indices.min()} or {indices.max()} of {self.num_rows}")
        first = self._plan.row_offsets[indices]
        num_pairs = self._plan.row_offsets[indices + 1] - first
        number = count_up(num_pairs)
        pairs = self._plan.pairs[np.repeat(first, num_pairs) + number]
        row = np.repeat(np.arange(len(indices)), num_pairs)
        source, source_lengths = self._sources.take(pairs, self._plan.capacity[0])
        target, target_lengths = self._targets.take(pairs, self._plan.capacity[1])
        read = np.roll(target, 1)
        read[np.cumsum(target_lengths) - target_lengths] = self._start_id
        sides = (
            ("", self._plan.capacity[0], source_lengths, {"tokens": source}),
            ("target_", self._plan.capacity[1], target_lengths, {"target_tokens": read, "targets": target}),
        )
        arrays = {}
        for prefix, capacity, lengths, values in sides:
            num_tokens = np.bincount(row, lengths, len(indices)).astype(np.int32)
            is_token = np.arange(capacity) < num_tokens[:, None]
            values[f"{prefix}segment_ids"] = np.repeat(number + 1, lengths)
            values[f"{prefix}positions"] = count_up(lengths)
            for name, flat in values.items():
                arrays[name] = np.zeros(is_token.shape, np.int32)
                arrays[name][is_token] = flat
            arrays[f"num_{prefix}tokens"] = num_tokens
        return arrays
