"""Packing of whole documents into sequences, without attention between documents."""

import heapq
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdp.data.sequences.element_arrays import count_up, open_disk_array
from jaxdp.data.sequences.flat import FlatArray, as_flat
from jaxdp.data.sequences.long_documents import find_long
from jaxdp.errors import UserError

PLAN_FORMAT = 2
"""Format number of the output of `pack` and of the files of a plan; part of the cache keys.

Raise it when a change of the packing, or of the cutting of long documents, gives other rows for the same documents.
"""

CHUNK_DOCUMENTS = 1 << 20  # Python numbers at a time

PLAN = "plan.json"
PLAN_ARRAYS = {"row_offsets": np.dtype("<i8"), "starts": np.dtype("<i8"), "lengths": np.dtype("<i4")}


@dataclass(frozen=True)
class PackPlan:
    """Assignment of documents to rows.

    A segment is a document, or a piece of one that was cut. Row r holds segments row_offsets[r] to row_offsets[r + 1];
    segment s holds the tokens starts[s] to starts[s] + lengths[s] of the flat array.

    Attributes:
        length: Positions of a row.
        row_offsets: [num_rows + 1] int64.
        starts: [num_segments] int64.
        lengths: [num_segments] int32, end of text included.
        num_tokens: Positions of all rows that are not padding.
        num_cut: Number of documents longer than a row that were cut, into pieces or to one.
        num_dropped: Number of documents longer than a row that are left out.
    """

    length: int
    row_offsets: np.ndarray | FlatArray
    starts: np.ndarray | FlatArray
    lengths: np.ndarray | FlatArray
    num_tokens: int
    num_cut: int = 0
    num_dropped: int = 0

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self.row_offsets) - 1

    @property
    def efficiency(self) -> float:
        """Share of positions that are not padding."""
        return self.num_tokens / (self.num_rows * self.length)

    def save(self, directory: Path) -> None:
        """Writes the plan into an empty directory."""
        for name, dtype in PLAN_ARRAYS.items():
            getattr(self, name).astype(dtype).tofile(directory / f"{name}.bin")
        numbers = {name: getattr(self, name) for name in ("length", "num_tokens", "num_cut", "num_dropped")}
        sizes = {name: len(getattr(self, name)) for name in PLAN_ARRAYS}
        (directory / PLAN).write_text(json.dumps({"numbers": numbers, "sizes": sizes}), encoding="utf-8")

    @classmethod
    def load(cls, directory: Path, entry: Path | None = None) -> "PackPlan":
        """Opens a plan that `save` wrote; its arrays are read on demand.

        Args:
            directory: Directory of the plan.
            entry: Cache entry of the plan, whose checksums are verified; None: there are none.
        """
        content = json.loads((directory / PLAN).read_text(encoding="utf-8"))
        arrays: dict[str, Any] = {
            name: open_disk_array(directory / f"{name}.bin", dtype, content["sizes"][name], entry)
            for name, dtype in PLAN_ARRAYS.items()
        }
        return cls(**content["numbers"], **arrays)


def pack(lengths: np.ndarray, length: int, long_documents: str = "error", skips: np.ndarray | None = None) -> PackPlan:
    """Packs documents into rows, each into the first row that has room for it.

    Documents come in order, and a new row begins where none has room, so rows are in the order of their first document.
    All rows stay open to the end, as first fit is defined.

    Args:
        lengths: [num_documents] integers, tokens of each document in the flat array, end of text included.
        length: Positions of a row, 1 or more.
        long_documents: Handling of documents longer than a row: error; cut: into pieces as long as a row and a rest,
            each packed like a document of its own; drop.
        skips: [num_documents] integers: cut keeps one piece of a long document, as long as a row, after this number of
            tokens; None: all pieces.

    Returns:
        The plan: 12 bytes per segment and 8 per row. Packing takes about 50 bytes per document and 40 per row.

    Raises:
        UserError: See `find_long`; or there is nothing to pack.

    Source: Johnson et al. 1974, Worst-Case Performance Bounds for Simple
    One-Dimensional Packing Algorithms: first fit.
    """
    lengths = np.asarray(lengths, np.int64)
    is_long = find_long(lengths, length, long_documents)
    num_long = int(np.count_nonzero(is_long))
    starts = np.cumsum(lengths) - lengths
    if long_documents == "drop":
        starts, lengths = starts[~is_long], lengths[~is_long]
    elif num_long and skips is None:
        starts, lengths = _pieces(starts, lengths, length)
    elif num_long:
        starts, lengths = starts + skips, np.minimum(lengths, length)
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    if not len(lengths):
        raise UserError(
            f"None of {len(is_long)} documents can be packed: {num_long} are longer than data.length="
            f"{length} tokens and the others empty; raise data.length, set data.long_documents=cut, or "
            "give more data."
        )
    row_of = _first_fit(lengths, length)
    by_row = np.argsort(row_of, kind="stable")
    row_offsets = np.append(0, np.cumsum(np.bincount(row_of)))
    return PackPlan(
        length,
        row_offsets,
        starts[by_row],
        lengths[by_row].astype(np.int32),
        num_tokens=int(lengths.sum()),
        num_cut=num_long if long_documents == "cut" else 0,
        num_dropped=num_long if long_documents == "drop" else 0,
    )


class PackedSequences:
    """Sequences of whole documents: a `SequenceDataset`.

    A document d_0 ... d_(n-1) takes n + 1 positions. Its inputs are end of text and its tokens, its targets are its tokens
    and end of text: every token is predicted once, the first of a document from end of text alone. A piece of a cut
    document that is not its beginning starts with the token before it instead of end of text, as in a window; it sees
    nothing else before it. End of text is the last target of the last piece only.

    Args:
        plan: Plan from `pack`.
        flat: Tokens of all documents, each followed by end of text.
        per_token: Further arrays with a value for each of these tokens, by name.

    Attributes:
        num_rows, efficiency, num_cut, num_dropped: See `PackPlan`.
    """

    def __init__(self, plan: PackPlan, flat: FlatArray, per_token: Mapping[str, FlatArray] | None = None):
        self._row_offsets, self._starts, self._lengths = (as_flat(getattr(plan, name)) for name in PLAN_ARRAYS)
        self._flat, self._per_token = flat, dict(per_token or {})
        self.length = plan.length
        self.num_rows = plan.num_rows
        self.efficiency = plan.efficiency
        self.num_cut, self.num_dropped = plan.num_cut, plan.num_dropped

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Reads sequences by number.

        Args:
            indices: [n] integers in range(num_rows).

        Returns:
            int32 arrays: `tokens`, `targets` [n, length]; `segment_ids` [n, length]: 1, 2, ... for the documents of a row;
            `positions` [n, length]: from 0 in each document; all 0 in the padding at the end of the row. `num_tokens` [n]:
            positions that are not padding. The `per_token` arrays at each target: [n, length].

        Raises:
            IndexError: An index is outside range(num_rows).
        """
        indices = np.asarray(indices, np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_rows:
            raise IndexError(f"row {indices.min()} or {indices.max()} of {self.num_rows}")
        bounds = self._row_offsets.take(indices, 2)
        num_segments = bounds[:, 1] - bounds[:, 0]
        number = count_up(num_segments)
        starts, lengths = (array.take_ragged(bounds[:, 0], num_segments) for array in (self._starts, self._lengths))
        targets = self._flat.take_ragged(starts, lengths)
        before = self._flat.take((starts - 1) % len(self._flat), 1)[:, 0]  # the last is end of text
        tokens = np.empty_like(targets)
        tokens[1:] = targets[:-1]
        tokens[np.cumsum(lengths) - lengths] = before
        row = np.repeat(np.arange(len(indices)), num_segments)
        num_tokens = np.bincount(row, lengths, len(indices)).astype(np.int32)
        is_token = np.arange(self.length) < num_tokens[:, None]
        values = {
            "tokens": tokens,
            "targets": targets,
            "segment_ids": np.repeat(number + 1, lengths),
            "positions": count_up(lengths),
            **{name: array.take_ragged(starts, lengths) for name, array in self._per_token.items()},
        }
        arrays = {name: np.zeros(is_token.shape, np.int32) for name in values}
        for name, array in arrays.items():
            array[is_token] = values[name]
        return {**arrays, "num_tokens": num_tokens}


def _pieces(starts: np.ndarray, lengths: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits documents longer than `length` into pieces of that length and a rest; returns starts and lengths."""
    num_pieces = np.maximum(-(-lengths // length), 1)
    begins = count_up(num_pieces) * length
    starts, lengths = np.repeat(starts, num_pieces), np.repeat(lengths, num_pieces)
    return starts + begins, np.minimum(lengths - begins, length)


def _first_fit(lengths: np.ndarray, length: int) -> np.ndarray:
    """Assigns each document to a row: `[num_documents] int64`.

    Rows are kept in one heap per amount of room left. The first row with room for n is the lowest of the first rows of
    the heaps n, n + 1, ..., which NumPy finds in about a microsecond.
    """
    length = min(length, int(lengths.sum()))  # the lists below are as long as a row; all documents fit one this long
    no_row = len(lengths)
    rows_with_room: list[list[int]] = [[] for _ in range(length + 1)]
    first_row = np.full(length + 1, no_row)  # of each heap
    shortest = int(lengths.min())
    row_of = np.empty(len(lengths), np.int64)
    num_rows = 0
    for document, needed in enumerate(_numbers(lengths)):
        room = needed + int(first_row[needed:].argmin())
        rows = rows_with_room[room]
        if rows:
            row = heapq.heappop(rows)
            first_row[room] = rows[0] if rows else no_row
        else:
            row, room, num_rows = num_rows, length, num_rows + 1
        row_of[document] = row
        room -= needed
        if room >= shortest:
            heapq.heappush(rows_with_room[room], row)
            first_row[room] = rows_with_room[room][0]
    return row_of


def _numbers(array: np.ndarray) -> Iterator[int]:
    """Yields the elements as Python numbers, a chunk at a time."""
    for start in range(0, len(array), CHUNK_DOCUMENTS):
        yield from array[start : start + CHUNK_DOCUMENTS].tolist()
