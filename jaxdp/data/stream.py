"""Batches of a stream: documents tokenized as they come, joined, cut into rows, dealt to processes.

Rows are those of `windows.TokenWindows`, epoch for epoch: a stream that is not
shuffled gives the batches of the same data read with another source and
`data.shuffle=False`. There batch(N) is arithmetic; here it is what comes next, so
each batch brings the state to go on from.
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
"""fields -> {"tokens": [n] int32}, or None to leave the record out; each record for itself."""

State = dict[str, Any]
"""What a checkpoint says about a stream: JSON, a few hundred bytes, the same on every process."""


class Position(NamedTuple):
    """Where the next row begins; with the stream and the length, all that follows.

    Attributes:
        epoch: from 0.
        num_rows: of this epoch, before it.
        num_documents: of this epoch, before the document it begins in.
        num_tokens: of that document, before it: they are made again, not remembered.
        place: of that document; None: the first of the epoch.
    """

    epoch: int = 0
    num_rows: int = 0
    num_documents: int = 0
    num_tokens: int = 0
    place: Place | None = None


class Document(NamedTuple):
    """A document's tokens, with the end of text that parts it from the one before.

    Attributes:
        number: documents of the epoch before it.
        place: where to read it again.
        tokens: [num_tokens] int32.
    """

    number: int
    place: Place
    tokens: np.ndarray


@dataclass(frozen=True, kw_only=True)
class StreamBatches:
    """One process's share of the batches of a stream, each with the state after it.

    Every process reads the whole stream and keeps its rows of each global batch. So
    a batch does not depend on the number of processes, all have as many, and there is
    one state, from which any number of processes can go on. It costs every process
    reading, decompressing and tokenizing all of it: P times the traffic, and a
    ceiling of what one core tokenizes, whatever P. `split_dataset_by_node` avoids
    that and gives up all three: processes run out at different steps, and the state
    is one per process. What that ceiling is too low for should be prepared once
    (`jaxdp prepare`) and read by row number.

    An epoch ends with its last whole row; the tokens behind it are left out, and the
    next epoch begins, in the same batch.

    Attributes:
        stream: see `jaxdp.data.reading.record_stream`.
        prepare: makes a document of a record.
        eos_id: stands between documents.
        make_batch: of the task.
        length: tokens from the beginning of a row to that of the next; a row has one more.
        global_batch_size: rows of a batch, of all processes.
        partition: see `process_row_ids`; as `num_processes` and `process_index`.
        state: to go on from; None: the start.
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
        """Raises UserError if the state is of other data: lists what differs."""
        if self.length < 1:
            raise UserError(f"data.length={self.length} is too short: expected 1 or more.")
        if self.state is not None:
            saved = {key: value for key, value in self.state.items() if key != "position"}
            check_data_state(saved, self._identity(saved.get("step")))

    @property
    def first_state(self) -> State:
        """The state before the first batch."""
        return self.state or self._state(0, Position())

    def __iter__(self) -> Iterator[tuple[HostBatch, State]]:
        """Batches without end.

        Yields:
            What `make_batch` gives, with `row_ids` [rows] int32, each row's number in
            the global batch; and the state after this batch.

        Raises:
            UserError: see `RecordStream.records`, `process_row_ids` and `prepare`; an
                epoch without a row.
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
        """Rows [length + 1] int32 of epoch after epoch, each with the position behind it."""
        while True:
            latest = position
            for row, latest in self._epoch_rows(position):
                yield row, latest
            if not latest.num_rows:
                raise UserError(
                    f"The stream has too few tokens for one row, which takes {self.length + 1}: give more data or "
                    "a smaller data.length."
                )
            position = Position(epoch=latest.epoch + 1)

    def _epoch_rows(self, start: Position) -> Iterator[tuple[np.ndarray, Position]]:
        """Rows of the rest of an epoch."""
        held: deque[Document] = deque()
        used, num_held, num_rows = start.num_tokens, -start.num_tokens, start.num_rows
        for document in _documents(self.stream, self.prepare, self.eos_id, start):
            held.append(document)
            num_held += len(document.tokens)
            while num_held > self.length:
                row = _gather(held, used, self.length + 1)
                # The last token of a row is the first of the next.
                used, num_held, num_rows = used + self.length, num_held - self.length, num_rows + 1
                while used >= len(held[0].tokens):
                    used -= len(held.popleft().tokens)
                yield row, Position(start.epoch, num_rows, held[0].number, used, held[0].place)

    def _state(self, step: int, position: Position) -> State:
        if not self.stream.exact:
            # Another document will stand there; it is read from its start.
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


def _documents(
    stream: RecordStream, prepare: Prepare, eos_id: int, start: Position
) -> Iterator[Document]:
    """The documents of the rest of an epoch, from the one that `start` is in."""
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
    """Some tokens of documents laid end to end: [num_tokens] int32."""
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
    """The first tokens of a stream, documents joined as in rows: to evaluate on, say.

    Args:
        num_tokens: how many; if there are fewer, all.

    Returns:
        [num_tokens] int32.

    Raises:
        UserError: see `RecordStream.records` and `prepare`.
    """
    pieces, missing = [np.zeros(0, np.int32)], num_tokens
    for document in _documents(stream, prepare, eos_id, Position()):
        pieces.append(document.tokens[:missing])
        missing -= len(pieces[-1])
        if not missing:
            break
    return np.concatenate(pieces)
