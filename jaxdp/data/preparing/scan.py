"""Scan of a source before anything is prepared: size, fingerprint, dropped records, position of the validation split."""

import dataclasses
import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdp.data.cleaning.cleaner import Cleaner, is_dropped
from jaxdp.data.preparing.fingerprint import Fingerprint
from jaxdp.data.preparing.selection import Selection, SelectionScan
from jaxdp.data.preparing.split import SplitPosition, split_parts
from jaxdp.data.reading.records import Columns, Part, Record
from jaxdp.errors import UserError

SCAN, DROPPED, HELD_OUT = "scan.json", "dropped.bits", "held_out.bits"

SCAN_FORMAT = 3
"""Format number of the output of readers, cleaning and split; part of the cache keys.

Raise it when a change of `data/reading`, `data/cleaning` or of the split gives other records, texts or another split for
the same data, which is then prepared again.
"""


class DataChanged(UserError):
    """Raised if the data differ from what the scan found."""


@dataclass(frozen=True)
class Scan:
    """Result of reading everything once.

    Attributes:
        fingerprint: Fingerprint of names and contents as they were read, before cleaning.
        columns: Fields that the fingerprints cover.
        part_fingerprints: Fingerprint of each part alone.
        part_records: Number of records of each part, training parts first.
        num_characters: Characters of the text after cleaning.
        train_characters: Characters of the training split.
        split: Beginning of the validation split. If the source has parts to evaluate on, the first of them; if records are
            selected, the end.
        dropped: Bit field of the records that cleaning drops, numbered over all parts, see `cleaner.is_dropped`.
        cleaned: Counts of each step of the cleaning.
        held_out: Bit field of the records that `data.eval_selection` has selected for validation; None: none, `split` or
            the parts determine the validation split.
    """

    fingerprint: str
    columns: tuple[str, ...]
    part_fingerprints: tuple[str, ...]
    part_records: tuple[int, ...]
    num_characters: int
    train_characters: int
    split: SplitPosition
    dropped: bytes
    cleaned: list[dict[str, Any]]
    held_out: bytes | None = None

    @property
    def split_key(self) -> Any:
        """JSON values that distinguish the split from any other split of the same records."""
        return self.split if self.held_out is None else hashlib.sha256(self.held_out).hexdigest()

    def save(self, directory: Path) -> None:
        """Writes the files that `load_scan` reads."""
        values = dataclasses.asdict(self)
        (directory / DROPPED).write_bytes(values.pop("dropped"))
        if (held_out := values.pop("held_out")) is not None:
            (directory / HELD_OUT).write_bytes(held_out)
        (directory / SCAN).write_text(json.dumps(values), encoding="utf-8")


def load_scan(directory: Path) -> Scan:
    """Reads the scan that `Scan.save` wrote."""
    values = json.loads((directory / SCAN).read_text(encoding="utf-8"))
    values["split"] = SplitPosition(*values["split"])
    values |= {name: tuple(values[name]) for name in ("columns", "part_fingerprints", "part_records")}
    held_out = (directory / HELD_OUT).read_bytes() if (directory / HELD_OUT).exists() else None
    return Scan(**values, dropped=(directory / DROPPED).read_bytes(), held_out=held_out)


def scan_parts(
    train: Sequence[Part],
    evaluation: Sequence[Part] | None,
    columns: Columns,
    cleaning: Sequence[str],
    eval_fraction: float,
    selection: Selection | None = None,
) -> Scan:
    """Reads and cleans all parts once.

    Args:
        train: Parts to train on, or to split if `evaluation` is None.
        evaluation: Parts of the validation split.
        columns: Columns whose text is cleaned and counted.
        cleaning: Steps of the cleaning.
        eval_fraction: Share of the characters for validation, or of the documents that `selection` chooses from; used
            without `evaluation` only.
        selection: Rule that selects documents for validation; None: the last ones. Used without `evaluation` only.

    Raises:
        UserError: From the readers or the cleaning; or the data cannot be split.
    """
    fingerprint, cleaner = Fingerprint(columns.names), Cleaner(cleaning, columns.text)
    selected = SelectionScan(selection, eval_fraction) if selection and evaluation is None else None
    part_characters, part_records, part_fingerprints = [], [], []
    # Sizes of the records of the first part with text, which are needed if it is the only one.
    lengths, continues = array("Q"), array("B")
    for part in (*train, *(evaluation or ())):
        keeps_lengths = not any(part_characters)
        if keeps_lengths:
            lengths, continues = array("Q"), array("B")
        part_characters.append(0)
        part_records.append(0)
        for record in part.read():
            fingerprint.add(record)
            cleaned = cleaner.clean(record)
            size = 0 if cleaned is None else sum(len(cleaned.fields[name]) for name in columns.text)
            if keeps_lengths:
                lengths.append(size)
                continues.append(record.continues)
            if selected:
                selected.add(record, None if cleaned is None else size)
            part_characters[-1] += size
            part_records[-1] += 1
        part_fingerprints.append(fingerprint.end_part())
    _check_kept(part_characters, part_records, cleaner)
    split, held_out = SplitPosition(len(train), 0, 0), None
    if selected:
        is_held_out = selected.held_out()
        held_out = np.packbits(is_held_out, bitorder="little").tobytes()
        train_characters = selected.num_characters(~is_held_out)
    elif evaluation is None:
        split = split_parts(part_characters, lengths, continues, eval_fraction)
        train_characters = sum(part_characters[: split.part])
        if split[1:] != (0, 0):
            train_characters += sum(lengths[: split.record]) + split.character
        _check_cut(split, columns)
    else:
        train_characters = sum(part_characters[: len(train)])
    return Scan(
        fingerprint.hexdigest(),
        columns.names,
        tuple(part_fingerprints),
        tuple(part_records),
        sum(part_characters),
        train_characters,
        split,
        bytes(cleaner.dropped),
        cleaner.report(),
        held_out,
    )


def _check_cut(split: SplitPosition, columns: Columns) -> None:
    if split.character and len(columns.text) > 1:
        raise UserError(
            "data.eval_fraction: one record of several columns cannot be cut in two; give more "
            "records, or name separate validation data with data.eval_path or data.eval_split."
        )


def _check_kept(part_characters: Sequence[int], part_records: Sequence[int], cleaner: Cleaner) -> None:
    """Raises UserError if no text is left; names the steps that dropped it."""
    if any(part_characters):
        return
    steps = [f"{step['step']} dropped {step['dropped']:,}" for step in cleaner.report() if step["dropped"]]
    if steps:
        raise UserError(
            f"data.cleaning leaves nothing of {sum(part_records):,} records ({', '.join(steps)}): loosen or remove "
            "these steps, or check that the text column holds the expected text."
        )
    raise UserError(
        f"data: none of {sum(part_records):,} records has text{' after data.cleaning' if cleaner.report() else ''}: "
        "check the files and the text column."
    )


class Excerpt(NamedTuple):
    """Record of whose cleaned text only the characters `begin` to `finish` count (None: to its end)."""

    record: Record
    begin: int = 0
    finish: int | None = None

    @property
    def continues(self) -> bool:
        """True if the next excerpt continues the same document."""
        return self.record.continues and self.finish is None


def kept_records(
    scan: Scan, train: Sequence[Part], evaluation: Sequence[Part] | None, *, held_out: bool
) -> Iterator[Excerpt]:
    """Yields the records of one split that cleaning keeps, as they were read.

    Args:
        scan: Scan of the same parts.
        train: Training parts as scanned.
        evaluation: Validation parts as scanned.
        held_out: True for the validation split, False for the training split.

    Raises:
        DataChanged: At the end of a part whose records differ from those of the scan.
    """
    parts = (*train, *(evaluation or ()))
    if scan.held_out is not None:
        yield from _selected_records(scan, parts, scan.held_out, held_out)
        return
    split, number = scan.split, 0
    for part_number, (part, num_records) in enumerate(zip(parts, scan.part_records, strict=True)):
        is_held_out = (part_number, num_records, 0) > split
        is_trained_on = (part_number, 0, 0) < split
        if not (is_held_out if held_out else is_trained_on):
            number += num_records
            continue
        for index, record in enumerate(_unchanged(part, scan, part_number)):
            number += 1
            if is_dropped(scan.dropped, number - 1):
                continue
            here = (part_number, index, 0)
            is_cut = split.character and here[:2] == split[:2]
            if held_out and (here >= split or is_cut):
                yield Excerpt(record, begin=split.character if is_cut else 0)
            elif not held_out and here < split:
                yield Excerpt(record, finish=split.character if is_cut else None)


def _selected_records(scan: Scan, parts: Sequence[Part], selected: bytes, held_out: bool) -> Iterator[Excerpt]:
    """Yields the records of one split if records were selected individually; parts without any are not read."""
    num_records = sum(scan.part_records)
    is_left_out, is_held_out = (_bits(marks, num_records) for marks in (scan.dropped, selected))
    is_wanted = ~is_left_out & (is_held_out == held_out)
    start = 0
    for part_number, part in enumerate(parts):
        here = is_wanted[start : start + scan.part_records[part_number]]
        start += len(here)
        if here.any():
            for index, record in enumerate(_unchanged(part, scan, part_number)):
                if here[index]:
                    yield Excerpt(record)


def _bits(marks: bytes, number: int) -> np.ndarray:
    """Unpacks a bit field of records: `[number]` bool."""
    return np.unpackbits(np.frombuffer(marks, np.uint8), count=number, bitorder="little").astype(bool)


def _unchanged(part: Part, scan: Scan, part_number: int) -> Iterator[Record]:
    """Reads a part again and compares it with the scan, since its fingerprint names the prepared data.

    Raises:
        DataChanged: The records differ from those of the scan.
    """
    fingerprint, num_records = Fingerprint(scan.columns), scan.part_records[part_number]
    for number, record in enumerate(part.read()):
        if number == num_records:
            raise _changed(part)
        fingerprint.add(record)
        yield record
    if fingerprint.end_part() != scan.part_fingerprints[part_number]:
        raise _changed(part)


def _changed(part: Part) -> DataChanged:
    return DataChanged(
        f"data: {part.name} changed while it was being prepared, so it holds other records than when it was scanned; "
        "nothing was kept of it: run the same command again once the data no longer changes."
    )
