"""The cleaner: the steps of `data.cleaning`, in their order, and what each did.

Records are cleaned twice. The scan (`Cleaner.clean`, one process, in the order of
the source) does everything, counts, and notes which records are dropped; later
the workers, in any order, only change text (`Cleaner.changes`), and are not given
the dropped ones. So whatever looks at more than one record is decided once, and
what the workers make is what the scan saw.

A document that comes in pieces (`Record.continues`) has its text changed piece by
piece; a piece ends behind a line (see `readers.read_text`), so only what reaches
over that line end can be missed: a tag of `html`, a run of newlines of
`whitespace`. It is kept or dropped as a whole by the length limits, which look at
the first piece that gets to them: that has millions of characters. `deduplicate`
compares each piece together with all pieces before it, so of two documents that
begin alike the second loses its beginning, and a copy is lost whole. What is
dropped of a document is thus its beginning or all of it, never only its end.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxdp.data.cleaning.steps import Change, make_step
from jaxdp.data.reading.records import Record

PRIVATE_USE = range(0xE000, 0xF900)
"""Characters without a meaning, which no step changes (Unicode 15, section 23.5)."""


class Cleaner:
    """Cleans the records of a source in one pass, in order.

    Args:
        steps: `data.cleaning`, applied in this order.
        columns: the text columns; others are left as they are.

    Attributes:
        identity: the steps, with the content of a list of stop words in place of its
            name, and versions where a result depends on one: equal identities, equal results.
        dropped: bit `number % 8` of byte `number // 8` is set if that record was
            dropped, counting from 0 in the order of `clean`; see `is_dropped`.

    Raises:
        UserError: an unknown step, an argument that does not fit, a list of
            stop words that cannot be read.
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
        """The next record cleaned; None if it is dropped."""
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
        place = self._num_records & 7
        if place == 0:
            self.dropped.append(0)
        self.dropped[-1] |= dropped << place
        self._num_records += 1

    def changes(self) -> "TextChanges":
        """What workers do to the records that are not dropped."""
        actions = (step.action for step in self._steps)
        functions = (action.function for action in actions if isinstance(action, Change))
        return TextChanges(tuple(functions), self._columns)

    def report(self) -> list[dict[str, Any]]:
        """{"step", "seen", "changed", "dropped"} of each step: numbers of records."""
        return [dataclasses.asdict(counts) for counts in self._counts]


def is_dropped(dropped: bytes, number: int) -> bool:
    """Whether `Cleaner.dropped` has a record, by its number in the order of the source."""
    return bool(dropped[number >> 3] >> (number & 7) & 1)


@dataclass(frozen=True)
class TextChanges:
    """The steps of `data.cleaning` that look at one text: pure, and fit to be pickled.

    Attributes:
        functions: text -> text, applied in this order.
        columns: to each of these.
    """

    functions: tuple[Callable[[str], str], ...]
    columns: tuple[str, ...]

    def __call__(self, record: Record) -> Record:
        """The record with its texts changed."""
        if not self.functions:
            return record
        texts = [record.fields[column] for column in self.columns]
        for function in self.functions:
            texts = [function(text) for text in texts]
        return _with_texts(record, self.columns, texts)

    def around(self, markers: Sequence[str], record: Record) -> Record:
        """The record with its texts changed, but for the markers in them.

        For each marker a character of private use stands in, which no text of the record
        has. To every step it is a character like any other, that is not of a word nor a
        blank; so what is around the marker becomes what it becomes in the middle of a text.
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
    """How many records came to a step, and what became of them there."""

    step: str
    seen: int = 0
    changed: int = 0
    dropped: int = 0
