"""Text cleaner: applies the steps of `data.cleaning` in order, and counts the effect of each.

Records are cleaned twice. The scan (`Cleaner.clean`, one process, in the order of the source) applies every step, counts,
and marks the dropped records. Later the workers, in any order, only change texts (`Cleaner.changes`) of the other
records. Steps that depend on several records are therefore decided once, and workers produce what the scan saw.

The text of a document in pieces (`Record.continues`) is changed piece by piece. Pieces end after a line (see
`readers.read_text`), so only matches across that line end are missed: a tag of `html`, a run of newlines of `whitespace`.
The length limits keep or drop the whole document by the first piece that reaches them, which has millions of
characters. `deduplicate` compares each piece together with all pieces before it: of two documents with the same
beginning the second loses that beginning, and a copy is dropped whole. So a document can lose its beginning or all
of its text, but never only its end.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxdp.data.cleaning.steps import Change, make_step
from jaxdp.data.reading.records import Record

PRIVATE_USE = range(0xE000, 0xF900)
"""Private-use characters, which no step changes (Unicode 15, section 23.5)."""


class Cleaner:
    """Cleaner of the records of a source, in one pass and in order.

    Args:
        steps: Steps of `data.cleaning`, in order.
        columns: Text columns; other columns are left unchanged.

    Attributes:
        identity: Identity of each step, with the content of a word list instead of its name, and versions of what the
            result depends on. Equal identities give equal results.
        dropped: Bit field of dropped records: bit `number % 8` of byte `number // 8`, numbered from 0 in the order of
            `clean`; see `is_dropped`.

    Raises:
        UserError: A step is unknown, an argument is invalid, or a word list cannot be read.
    """

    def __init__(self, steps: Iterable[str], columns: Iterable[str]):
        self._columns = tuple(columns)
        self._steps = [make_step(name) for name in steps]
        self._counts = [StepCounts(step.name) for step in self._steps]
        self.identity = tuple(step.identity for step in self._steps)
        self.dropped = bytearray()
        self._num_records = 0
        self._document = 0

    def clean(self, record: Record) -> Record | None:
        """Cleans the next record; returns None if it is dropped."""
        texts = before = tuple(record.fields[column] for column in self._columns)
        for step, counts in zip(self._steps, self._counts, strict=True):
            after = step.action(texts, self._document)
            counts.seen += 1
            counts.dropped += after is None
            if after is None:
                texts = None
                break
            counts.changed += after != texts
            texts = after
        self._note(texts is None)
        self._document += not record.continues
        if texts is None:
            return None
        return record if texts is before else _with_texts(record, self._columns, texts)

    def _note(self, dropped: bool) -> None:
        bit = self._num_records & 7
        if bit == 0:
            self.dropped.append(0)
        self.dropped[-1] |= dropped << bit
        self._num_records += 1

    def changes(self) -> "TextChanges":
        """Returns the text changes that workers apply to the records that are not dropped."""
        actions = (step.action for step in self._steps)
        functions = (action.function for action in actions if isinstance(action, Change))
        return TextChanges(tuple(functions), self._columns)

    def report(self) -> list[dict[str, Any]]:
        """Returns {"step", "seen", "changed", "dropped"} of each step, the last three as numbers of records."""
        return [dataclasses.asdict(counts) for counts in self._counts]


def is_dropped(dropped: bytes, number: int) -> bool:
    """Looks a record up in `Cleaner.dropped`, by its number in the order of the source."""
    return bool(dropped[number >> 3] >> (number & 7) & 1)


@dataclass(frozen=True)
class TextChanges:
    """Steps of `data.cleaning` that depend on one text: pure and picklable.

    Attributes:
        functions: Functions from text to text, in order.
        columns: Columns that they are applied to.
    """

    functions: tuple[Callable[[str], str], ...]
    columns: tuple[str, ...]

    def __call__(self, record: Record) -> Record:
        """Changes the texts of a record."""
        if not self.functions:
            return record
        texts = [record.fields[column] for column in self.columns]
        for function in self.functions:
            texts = [function(text) for text in texts]
        return _with_texts(record, self.columns, texts)

    def around(self, markers: Sequence[str], record: Record) -> Record:
        """Changes the texts of a record, but not the markers in them.

        Each marker is replaced by a private-use character that no text of the record contains. For every step it is an
        ordinary character, neither a letter nor a blank, so the text around a marker is changed like the middle of a text.
        """
        texts = [record.fields[column] for column in self.columns]
        unused = (chr(code) for code in PRIVATE_USE if not any(chr(code) in text for text in texts))
        stand_ins = dict(zip(markers, unused, strict=False))
        for marker, stand_in in stand_ins.items():
            texts = [text.replace(marker, stand_in) for text in texts]
        changed = self(_with_texts(record, self.columns, texts))
        texts = [changed.fields[column] for column in self.columns]
        for marker, stand_in in stand_ins.items():
            texts = [text.replace(stand_in, marker) for text in texts]
        return _with_texts(record, self.columns, texts)


def _with_texts(record: Record, columns: Iterable[str], texts: Iterable[str]) -> Record:
    return dataclasses.replace(record, fields={**record.fields, **dict(zip(columns, texts, strict=True))})


@dataclass
class StepCounts:
    """Numbers of records that reached a step, and that it changed or dropped."""

    step: str
    seen: int = 0
    changed: int = 0
    dropped: int = 0
