"""Pairs of texts side by side in rows, so that short ones do not leave a row empty.

A row has places for sources and places for targets. Several pairs share it, each
with a segment id of its own, and none is attended to from another.
"""

from dataclasses import dataclass

import numpy as np

from jaxdp.data.sequences.flat import RaggedArray
from jaxdp.data.sequences.memory_array import count_up

OPEN_ROWS = 1024
"""Rows that the next pair may still go into: more find hardly any room that is left."""


@dataclass(frozen=True)
class PairPlan:
    """Which pairs stand in which row: row r holds pairs[row_offsets[r] : row_offsets[r + 1]].

    Attributes:
        places: of a row, for sources and for targets.
        row_offsets: [num_rows + 1] int64.
        pairs: [num_pairs] int64.
        num_tokens: of sources and of targets, of all rows together.
        num_cut: pairs of which a side is cut.
        num_dropped: pairs that are left out.
    """

    places: tuple[int, int]
    row_offsets: np.ndarray
    pairs: np.ndarray
    num_tokens: tuple[int, int]
    num_cut: int
    num_dropped: int

    @property
    def num_rows(self) -> int:
        return len(self.row_offsets) - 1

    @property
    def efficiency(self) -> tuple[float, float]:
        """Share of places that are not padding, of sources and of targets."""
        return tuple(
            tokens / (self.num_rows * places)
            for tokens, places in zip(self.num_tokens, self.places, strict=True)
        )


def pack_pairs(
    source_lengths: np.ndarray, target_lengths: np.ndarray, places: tuple[int, int], pairs: np.ndarray | None = None
) -> PairPlan:
    """Packs pairs into rows: each into the first open row that has room for both sides.

    Pairs come in order, and a new row begins where none has room; of OPEN_ROWS open
    ones the oldest is then closed.

    Args:
        source_lengths: [n] integers, end of text included, each 1 or more.
        target_lengths: the same of targets.
        places: of a row, for sources and for targets; longer texts count as cut to them.
        pairs: which of them are packed, [m] integers in order; None: all.

    Source: Garey et al. 1976, Resource Constrained Scheduling as Generalized Bin
    Packing: first fit in several dimensions.
    """
    pairs = np.arange(len(source_lengths)) if pairs is None else np.asarray(pairs, np.int64)
    lengths = np.stack([source_lengths, target_lengths], axis=1)[pairs]
    sizes = np.minimum(lengths, places).astype(np.int64)
    # Open rows in a ring, the oldest at `oldest`; what is not open has no room.
    room = np.full((2, OPEN_ROWS), -1, np.int64)
    row_of = np.empty(len(pairs), np.int64)
    num_rows = 0
    for number, (source, target) in enumerate(sizes.tolist()):
        fits = (room[0] >= source) & (room[1] >= target)
        # The first in the order of rows: from the oldest slot on, then from the ring's start.
        oldest = num_rows % OPEN_ROWS
        slot = oldest + int(fits[oldest:].argmax())
        if not fits[slot]:
            slot = int(fits[:oldest].argmax()) if oldest else 0
        if not fits[slot]:
            slot, num_rows = oldest, num_rows + 1
            room[:, slot] = places
        # The row in this slot is the youngest whose number leaves this remainder.
        row_of[number] = num_rows - 1 - (num_rows - 1 - slot) % OPEN_ROWS
        room[0, slot] -= source
        room[1, slot] -= target
    by_row = np.argsort(row_of, kind="stable")
    return PairPlan(
        places,
        np.append(0, np.cumsum(np.bincount(row_of))).astype(np.int64),
        pairs[by_row],
        tuple(sizes.sum(axis=0).tolist()),
        num_cut=int((sizes < lengths).any(axis=1).sum()),
        num_dropped=len(source_lengths) - len(pairs),
    )


class PackedPairs:
    """Rows of several pairs: a `SequenceDataset`.

    Args:
        plan: from `pack_pairs`.
        sources: tokens of all sources, end of text included.
        targets: the same of targets.
        start_id: what the decoder reads before the first token of each target.

    Attributes:
        num_rows, efficiency, num_cut, num_dropped: see `PairPlan`.
    """

    def __init__(self, plan: PairPlan, sources: RaggedArray, targets: RaggedArray, start_id: int):
        self._plan, self._sources, self._targets, self._start_id = plan, sources, targets, start_id
        self.num_rows = plan.num_rows
        self.efficiency = plan.efficiency
        self.num_cut, self.num_dropped = plan.num_cut, plan.num_dropped

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The rows of these numbers.

        Args:
            indices: [n] integers in range(num_rows).

        Returns:
            Arrays of int32. Of sources `tokens`, `segment_ids`, `positions` [n,
            places]; of targets `target_tokens` (what the decoder reads), `targets`,
            `target_segment_ids`, `target_positions` [n, places]. Segments count from 1
            and positions from 0; all are 0 where there is padding, at the end of a
            row. `num_tokens`, `num_target_tokens` [n]: places that are not padding.

        Raises:
            IndexError: an index outside range(num_rows).
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_rows:
            raise IndexError(f"row {indices.min()} or {indices.max()} of {self.num_rows}")
        first = self._plan.row_offsets[indices]
        num_pairs = self._plan.row_offsets[indices + 1] - first
        number = count_up(num_pairs)
        pairs = self._plan.pairs[np.repeat(first, num_pairs) + number]
        row = np.repeat(np.arange(len(indices)), num_pairs)
        source, source_lengths = self._sources.take(pairs, self._plan.places[0])
        target, target_lengths = self._targets.take(pairs, self._plan.places[1])
        read = np.roll(target, 1)
        read[np.cumsum(target_lengths) - target_lengths] = self._start_id
        sides = (
            ("", self._plan.places[0], source_lengths, {"tokens": source}),
            ("target_", self._plan.places[1], target_lengths, {"target_tokens": read, "targets": target}),
        )
        arrays = {}
        for prefix, places, lengths, values in sides:
            num_tokens = np.bincount(row, lengths, len(indices)).astype(np.int32)
            is_token = np.arange(places) < num_tokens[:, None]
            values[f"{prefix}segment_ids"] = np.repeat(number + 1, lengths)
            values[f"{prefix}positions"] = count_up(lengths)
            for name, flat in values.items():
                arrays[name] = np.zeros(is_token.shape, np.int32)
                arrays[name][is_token] = flat
            arrays[f"num_{prefix}tokens"] = num_tokens
        return arrays
