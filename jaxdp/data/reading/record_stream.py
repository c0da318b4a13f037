"""Records of a data set of Hugging Face as they come, from any place on.

A shard is a file, as `datasets` divides a split. One after the other is read, in
the order of their names or in one that is shuffled anew each epoch. So a place is
a shard, and in it what `datasets` calls the state of a reader of that shard alone.

Departs: `IterableDataset.set_epoch` and `shuffle` shuffle shards too. But the one
does so unasked, from the second epoch on and without a seed, and the other reads
ten shards in turn through a buffer whose content is no part of its state.
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
"""Where a record stands in its epoch, as JSON.

`shard`: shards read before its own; `row`: records of its shard before it;
`datasets`: what `load_state_dict` takes to give it next; None at a shard's start.
"""


class RecordStream:
    """One split, read in an order that is a function of seed and epoch.

    Args:
        dataset: `datasets.IterableDataset`.
        columns: that every record must have.
        files: path or URL of each shard; empty: not known.
        where: the data, for messages: `data.path=..., split train`.
        seed: of the shuffling.
        shuffle: another order of the shards each epoch; False: as they come.
        shuffle_buffer: among how many records to shuffle as well, which makes it
            inexact; 0: those of a shard come in order.

    Attributes:
        seed: of the shuffling.
        exact: whether reading goes on from a place as if it had never stopped.
        inexact_reason: why it does not, for a person; empty if it does.
        fingerprint: SHA-256, in hexadecimal, of the names and sizes of the files; of
            the Hub the names have the revision. The content of a stream is not known.
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
        """JSON values that, with the fingerprint, fix the order."""
        return {
            "kind": "stream",
            "seed": self.seed,
            "shuffle": self._shuffle,
            "shuffle_buffer": self._shuffle_buffer,
        }

    def records(self, epoch: int = 0, place: Place | None = None) -> Iterator[tuple[Place, Record]]:
        """The records of an epoch, each with its place.

        Every call reads for itself, so several may be under way.

        Args:
            epoch: from 0.
            place: of the first record that is wanted; None: the first of the epoch.

        Raises:
            UserError: what cannot be read, with the file, and where our own reader of
                such files knows it, the line; a column that is missing or not text; a label
                that is none.
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

    def _read(
        self, number: int, shard: int | None, epoch: int, place: Place | None
    ) -> Iterator[tuple[Place, Record]]:
        """The records of one shard; of None: of all, through the buffer."""
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
            except Exception as error:  # nothing of ours runs here: it is the data, or the way to it
                raise self._unreadable(shard, row, error) from error
            yield {"shard": number, "row": row, "datasets": state}, self._record(fields, f"{origin}, row {row}")
            row += 1
            state = dataset.state_dict()  # of a reader that has not begun it would be that of the start

    def _open(self, shard: int | None, epoch: int) -> Any:
        """A data set of its own, for it holds the state of its reader."""
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
    """Local paths relative to their folder, with `/`; URLs as they are."""
    if not all(map(os.path.isfile, files)):
        return files
    folder = os.path.commonpath(map(os.path.dirname, files)) if files else ""
    return [os.path.relpath(file, folder).replace(os.sep, "/") for file in files]


def _sizes(files: list[str]) -> list[int | None]:
    return [os.path.getsize(file) if os.path.isfile(file) else None for file in files]


def _line_error(path: str, columns: Columns) -> UserError | None:
    """What our own reader says about a file of this machine that `datasets` cannot read: it knows lines."""
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
