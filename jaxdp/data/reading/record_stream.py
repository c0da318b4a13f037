"""Streams of records from Hugging Face datasets, resumable at any record.

A shard is a file, as `datasets` divides a split. Shards are read one after the other, in the order of their names or in
an order that is shuffled each epoch. A position is a shard, and the `datasets` state of a reader of that shard alone.

Differs: `IterableDataset.set_epoch` and `shuffle` shuffle shards too, but the first does so from the second epoch on
without a seed, and the second reads ten shards in turn through a buffer that is not part of its state.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxdp.data.reading.arrow import short_reason
from jaxdp.data.reading.file_sources import FORMATS
from jaxdp.data.reading.files import find_files
from jaxdp.data.reading.hub import class_names, with_class_names
from jaxdp.data.reading.records import Columns, Record, select_fields
from jaxdp.data.samplers.permutation import permute
from jaxdp.errors import UserError

Place = Mapping[str, Any]
"""Position of a record in its epoch, as JSON.

`shard`: number of shards before its own; `row`: number of records of its shard before it;
`datasets`: argument of `load_state_dict` from which it is the next record; None at the start of a shard.
"""


class RecordStream:
    """Stream of one split, in an order that is a function of seed and epoch.

    Args:
        dataset: `datasets.IterableDataset`.
        columns: Columns that every record must have.
        files: Path or URL of each shard; empty: unknown.
        where: Description of the data for messages: `data.path=..., split train`.
        seed: Seed of the shuffling.
        shuffle: True for another order of the shards in each epoch; False for the order of their names.
        shuffle_buffer: Number of records among which to shuffle as well, which makes resuming inexact; 0: the records of a
            shard come in order.

    Attributes:
        seed: Seed of the shuffling.
        exact: True if reading continues from a position as if it had never stopped.
        inexact_reason: Reason why it does not, for a message; empty if it does.
        fingerprint: Hexadecimal SHA-256 of the names and sizes of the files; names from the Hub include the revision. The
            content of a stream is unknown.
    """

    def __init__(
        self,
        dataset: Any,
        columns: Columns,
        files: list[str],
        where: str,
        *,
        seed: int = 0,
        shuffle: bool = False,
        shuffle_buffer: int = 0,
    ):
        self._dataset, self._columns, self._files, self._where = dataset, columns, files, where
        self.seed, self._shuffle, self._shuffle_buffer = seed, shuffle, shuffle_buffer
        self._num_shards = dataset.num_shards
        self._class_names = class_names(dataset.features, columns)
        self._names = _names(files)
        self.exact = shuffle_buffer == 0
        self.inexact_reason = "" if self.exact else (
            "resume inexact: no checkpoint holds the records among which "
            f"data.shuffle_buffer={shuffle_buffer} shuffles, so a resumed run misses some of them and sees "
            "some twice; data.shuffle_buffer=0 shuffles whole shards only, and resumes exactly"
        )  # fmt: skip
        content = json.dumps([self._names or where, _sizes(files), self._num_shards, columns.names])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        """Returns JSON values that, with the fingerprint, determine the order."""
        return {
            "kind": "stream",
            "seed": self.seed,
            "shuffle": self._shuffle,
            "shuffle_buffer": self._shuffle_buffer,
        }

    def records(self, epoch: int = 0, place: Place | None = None) -> Iterator[tuple[Place, Record]]:
        """Yields the records of an epoch, each with its position.

        Every call reads independently, so several may be active.

        Args:
            epoch: Epoch, from 0.
            place: Position of the first record; None: the first of the epoch.

        Raises:
            UserError: Data cannot be read, with the file, and the line if our own reader of such files knows it; a column is
                missing or is not text; a label is invalid.
        """
        if not self.exact:
            yield from self._read(0, None, epoch, place)
            return
        shards = np.arange(self._num_shards)
        if self._shuffle:
            shards = permute(shards, self._num_shards, key=("shards", self.seed, epoch))
        first = place["shard"] if place else 0
        for number in range(first, self._num_shards):
            yield from self._read(number, int(shards[number]), epoch, place if number == first else None)

    def _read(self, number: int, shard: int | None, epoch: int, place: Place | None) -> Iterator[tuple[Place, Record]]:
        """Yields the records of one shard; None: of all, through the buffer."""
        dataset, origin = self._open(shard, epoch), self._origin(shard)
        row, state = (place["row"], place["datasets"]) if place else (0, None)
        if state is not None:
            dataset.load_state_dict(state)
        rows = iter(dataset)
        while True:
            try:
                fields = next(rows)
            except StopIteration:
                return
            except Exception as error:  # only `datasets` runs here, so the cause is the data or the connection
                raise self._unreadable(shard, row, error) from error
            yield {"shard": number, "row": row, "datasets": state}, self._record(fields, f"{origin}, row {row}")
            row += 1
            state = dataset.state_dict()  # a reader that has not begun would return the state of the start

    def _open(self, shard: int | None, epoch: int) -> Any:
        """Returns a dataset of its own, since it holds the state of its reader."""
        if shard is not None:
            return self._dataset.shard(num_shards=self._num_shards, index=shard)
        dataset = self._dataset.shuffle(seed=self.seed, buffer_size=self._shuffle_buffer)
        dataset.set_epoch(epoch)
        return dataset

    def _origin(self, shard: int | None) -> str:
        if shard is None:
            return f"{self._where}, in shuffled order"
        return self._names[shard] if self._names else f"{self._where}, shard {shard} of {self._num_shards}"

    def _record(self, fields: Mapping[str, Any], origin: str) -> Record:
        record = Record(select_fields(fields, self._columns, origin), origin)
        return with_class_names(record, self._class_names) if self._class_names else record

    def _unreadable(self, shard: int | None, row: int, error: Exception) -> UserError:
        path = self._files[shard] if self._files and shard is not None else None
        known = path and _line_error(path, self._columns)
        return known or UserError(
            f"{path or self._origin(shard)} cannot be read behind its first {row} rows "
            f"({type(error).__name__}: {short_reason(error)}): fix or leave out what is broken, or if the "
            "network failed, give the same command again."
        )


def _names(files: list[str]) -> list[str]:
    """Returns local paths relative to their folder, with `/`, and URLs unchanged."""
    if not all(map(os.path.isfile, files)):
        return files
    folder = os.path.commonpath(map(os.path.dirname, files)) if files else ""
    return [os.path.relpath(file, folder).replace(os.sep, "/") for file in files]


def _sizes(files: list[str]) -> list[int | None]:
    return [os.path.getsize(file) if os.path.isfile(file) else None for file in files]


def _line_error(path: str, columns: Columns) -> UserError | None:
    """Returns the error of our own reader for a local file that `datasets` cannot read, since it knows the line."""
    if not os.path.isfile(path):
        return None
    [file] = find_files(path, ())
    form = next((form for form in FORMATS.values() if file.kind in form.endings), FORMATS["text"])
    try:
        for _ in form.read(file, columns, "strict"):
            pass
    except UserError as error:
        return error
    return None
