"""Batches of a stream: documents tokenized as they arrive, concatenated, cut into sequences, assigned to processes.

Sequences are those of `windows.TokenWindows`, epoch by epoch: a stream that is not shuffled gives the batches of the
same data read with another source and `data.shuffle=False`. Indexed data can compute
batch(N); a stream cannot, so each batch carries the state to continue from.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxdp.data.pipeline import FORMAT, MakeBatch, check_data_state
from jaxdp.data.reading.record_stream import Place, RecordStream
from jaxdp.data.samplers.shards import process_row_ids
from jaxdp.errors import UserError
from jaxdp.typing import HostBatch

Prepare = Callable[[Mapping[str, Any]], Mapping[str, np.ndarray] | None]
"""Function from fields to {"tokens": [n] int32}, or None to leave the record out; records are independent."""

State = dict[str, Any]
"""Data state of a stream in a checkpoint: JSON, a few hundred bytes, the same on every process."""


class Position(NamedTuple):
    """Position of the next sequence; with the stream and the length it determines all that follows.

    Attributes:
        epoch: Epoch, from 0.
        num_rows: Number of sequences of this epoch before it.
        num_documents: Number of documents of this epoch before the one that it begins in.
        num_tokens: Number of tokens of that document before it; they are tokenized again, not stored.
        place: Position of that document in the stream; None: the first of the epoch.
    """

    epoch: int = 0
    num_rows: int = 0
    num_documents: int = 0
    num_tokens: int = 0
    place: Place | None = None


class Document(NamedTuple):
    """Tokens of a document, with the eos token that separates it from the previous one.

    Attributes:
        number: Number of documents of the epoch before it.
        place: Position in the stream from which it is read again.
        tokens: [num_tokens] int32.
    """

    number: int
    place: Place
    tokens: np.ndarray


@dataclass(frozen=True, kw_only=True)
class StreamBatches:
    """Share of one process of the batches of a stream, each with the state after it.

    Every process reads the whole stream and keeps its sequences of each global batch. Batches therefore do not depend on the
    number of processes, all processes have the same number of them, and one state serves any number of processes. The
    price is that every process reads, decompresses and tokenizes everything: P times the traffic, and at most the
    throughput of one core. `split_dataset_by_node` avoids that but loses all three properties: processes run out at
    different steps, and each has a state of its own. Data that needs more throughput should be prepared once
    (`jaxdp prepare`) and read by sequence number.

    An epoch ends with its last full sequence. The tokens after it are left out, and the next epoch begins in the same batch.

    Attributes:
        stream: Records, see `jaxdp.data.reading.record_stream`.
        prepare: Function from a record to a document.
        eos_id: Token between documents.
        make_batch: Function of the task, see `pipeline.MakeBatch`.
        length: Number of tokens from the beginning of a sequence to that of the next; a sequence has one more.
        global_batch_size: Sequences of a batch, over all processes.
        partition: Shard assignment, see `process_row_ids`.
        num_processes: Number of processes.
        process_index: Index of this process.
        state: State to continue from; None: the start.
    """

    stream: RecordStream
    prepare: Prepare
    eos_id: int
    make_batch: MakeBatch
    length: int
    global_batch_size: int
    partition: str = "block"
    num_processes: int = 1
    process_index: int = 0
    state: State | None = None

    def __post_init__(self):
        """Raises UserError if the state belongs to other data; lists the differences."""
        if self.length < 1:
            raise UserError(f"data.length={self.length} is too short: expected 1 or more.")
        if self.state is not None:
            saved = {key: value for key, value in self.state.items() if key != "position"}
            check_data_state(saved, self._identity(saved.get("step")))

    @property
    def first_state(self) -> State:
        """State before the first batch."""
        return self.state or self._state(0, Position())

    def __iter__(self) -> Iterator[tuple[HostBatch, State]]:
        """Yields an endless sequence of batches.

        Yields:
            The arrays of `make_batch` with `row_ids` [rows] int32, the number of each sequence in the global batch; and the
            state after this batch.

        Raises:
            UserError: See `RecordStream.records`, `process_row_ids` and `prepare`; or an epoch has no full sequence.
        """
        step = self.first_state["step"]
        rows = self._rows(Position(**self.first_state["position"]))
        while True:
            row_ids = process_row_ids(
                self.partition,
                global_batch_size=self.global_batch_size,
                num_processes=self.num_processes,
                process_index=self.process_index,
                seed=self.stream.seed,
                step=step,
            )
            batch_rows = []
            for _ in range(self.global_batch_size):
                row, position = next(rows)
                batch_rows.append(row)
            examples = {
                "tokens": np.stack([batch_rows[row_id] for row_id in row_ids]),
                "num_tokens": np.full(len(row_ids), self.length + 1, np.int32),
            }
            batch = self.make_batch(examples, self.stream.seed, step, row_ids)
            step += 1
            yield {**batch, "row_ids": row_ids}, self._state(step, position)

    def _rows(self, position: Position) -> Iterator[tuple[np.ndarray, Position]]:
        """Yields sequences [length + 1] int32 epoch by epoch, each with the position after it."""
        while True:
            latest = position
            for row, latest in self._epoch_rows(position):
                yield row, latest
            if not latest.num_rows:
                raise UserError(
                    f"The stream has too few tokens for one sequence, which takes {self.length + 1}: give more data or "
                    "a smaller data.length."
                )
            position = Position(epoch=latest.epoch + 1)

    def _epoch_rows(self, start: Position) -> Iterator[tuple[np.ndarray, Position]]:
        """Yields the remaining sequences of an epoch."""
        held: deque[Document] = deque()
        used, num_held, num_rows = start.num_tokens, -start.num_tokens, start.num_rows
        for document in _documents(self.stream, self.prepare, self.eos_id, start):
            held.append(document)
            num_held += len(document.tokens)
            while num_held > self.length:
                row = _gather(held, used, self.length + 1)
                # The last token of a sequence is the first of the next.
                used, num_held, num_rows = used + self.length, num_held - self.length, num_rows + 1
                while used >= len(held[0].tokens):
                    used -= len(held.popleft().tokens)
                yield row, Position(start.epoch, num_rows, held[0].number, used, held[0].place)

    def _state(self, step: int, position: Position) -> State:
        if not self.stream.exact:
            # After an inexact resume another document is at this position; it is read from its start.
            position = position._replace(num_tokens=0)
        return {**self._identity(step), "position": position._asdict()}

    def _identity(self, step: int | None) -> State:
        return {
            "format": FORMAT,
            "step": step,
            "fingerprint": self.stream.fingerprint,
            "order": self.stream.describe(),
            "length": self.length,
            "global_batch_size": self.global_batch_size,
            "exact": self.stream.exact,
        }


def _documents(stream: RecordStream, prepare: Prepare, eos_id: int, start: Position) -> Iterator[Document]:
    """Yields the remaining documents of an epoch, from the one at `start`."""
    number = start.num_documents
    for place, record in stream.records(start.epoch, start.place):
        try:
            example = prepare(record.fields)
        except UserError as error:
            raise UserError(f"{record.origin}: {error}") from error
        if example is None:
            continue
        tokens = np.asarray(example["tokens"], np.int32)
        yield Document(number, place, np.append(np.int32(eos_id), tokens) if number else tokens)
        number += 1


def _gather(documents: deque[Document], start: int, num_tokens: int) -> np.ndarray:
    """Copies tokens that span consecutive documents: [num_tokens] int32."""
    row = np.empty(num_tokens, np.int32)
    filled = 0
    for document in documents:
        piece = document.tokens[start : start + num_tokens - filled]
        row[filled : filled + len(piece)] = piece
        filled, start = filled + len(piece), 0
        if filled == num_tokens:
            return row
    raise ValueError(f"{filled} tokens, expected {num_tokens}")


def head_tokens(stream: RecordStream, prepare: Prepare, eos_id: int, num_tokens: int) -> np.ndarray:
    """Reads the first tokens of a stream, with documents concatenated as in training, e.g. as a validation split.

    Args:
        stream: Records.
        prepare: Function from a record to a document.
        eos_id: Token between documents.
        num_tokens: Maximum number of tokens.

    Returns:
        [num_tokens] int32, fewer if the stream ends.

    Raises:
        UserError: See `RecordStream.records` and `prepare`.
    """
    pieces, missing = [np.zeros(0, np.int32)], num_tokens
    for document in _documents(stream, prepare, eos_id, Position()):
        pieces.append(document.tokens[:missing])
        missing -= len(pieces[-1])
        if not missing:
            break
    return np.concatenate(pieces)
