"""Validation split selected by document: a keyed pseudo-random share of all documents, or of those of each class.

Membership depends on the seed and on the number of a document among those that cleaning keeps, never on the order
in which workers finish. The scan collects some bytes a record for it; no text stays in memory.
"""

from array import array
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from jaxdp.data.preparing.split import check_fraction
from jaxdp.data.reading.records import Record
from jaxdp.data.samplers.permutation import permute
from jaxdp.errors import UserError

SelectionKind = Literal["tail", "random", "stratified"]
SELECTIONS: tuple[SelectionKind, ...] = get_args(SelectionKind)

SELECTION_FORMAT = 1
"""Format number of the selection; part of the cache keys.

Raise it when a change selects other records.
"""

NO_CLASS = ""
"""Class of a record without any."""


@dataclass(frozen=True)
class Selection:
    """Rule that selects the validation split, other than its being the tail of the data.

    Attributes:
        kind: random | stratified.
        seed: Seed of the run.
        classes_of: Names of the classes of a record, for `stratified`; each name once.
        key: JSON values that the classes depend on, in addition to the record.
    """

    kind: SelectionKind
    seed: int
    classes_of: Callable[[Record], Collection[str]] | None = None
    key: Any = None


class SelectionScan:
    """Collects the properties of records that the selection depends on, then selects.

    Args:
        selection: Rule.
        eval_fraction: Share of the documents, or of those of each class, for validation.

    Raises:
        UserError: The fraction is not between 0 and 1.
    """

    def __init__(self, selection: Selection, eval_fraction: float):
        check_fraction(eval_fraction)
        self._selection, self._fraction = selection, eval_fraction
        self._is_kept, self._is_end = bytearray(), bytearray()
        self._sizes = array("Q")
        self._class_numbers: dict[str, int] = {}
        self._num_classes, self._classes = (
            array("I"),
            array("I"),
        )  # number of classes of each record; class numbers of all records, concatenated

    def add(self, record: Record, size: int | None) -> None:
        """Adds the next record.

        Args:
            record: Record as it was read.
            size: Characters that cleaning left; None if it drops the record.

        Raises:
            UserError: A label cannot be read; names the record.
        """
        self._is_kept.append(size is not None)
        self._is_end.append(not record.continues)
        self._sizes.append(size or 0)
        classes_of = self._selection.classes_of
        if classes_of is None:
            return
        names = _class_names(classes_of, record) if size is not None else ()
        self._num_classes.append(len(names))
        self._classes.extend(self._class_numbers.setdefault(name, len(self._class_numbers)) for name in names)

    def held_out(self) -> np.ndarray:
        """Returns the records of the validation split: `[num_records]` bool.

        Raises:
            UserError: There are too few documents for both splits.
        """
        is_end = np.frombuffer(self._is_end, bool)
        document = np.cumsum(is_end) - is_end  # document of each record
        num_documents = int(document[-1]) + 1 if len(document) else 0
        is_kept = np.zeros(num_documents, bool)
        is_kept[document[np.frombuffer(self._is_kept, bool)]] = True
        kept = np.flatnonzero(is_kept)
        held_out = np.zeros(num_documents, bool)
        if self._selection.kind == "random":
            held_out[kept[select_random(len(kept), self._fraction, self._selection.seed)]] = True
        else:
            held_out = self._stratified(document, num_documents)
        return held_out[document]

    def _stratified(self, document: np.ndarray, num_documents: int) -> np.ndarray:
        owners = np.repeat(document, np.frombuffer(self._num_classes, np.uint32))
        pairs = np.unique(np.stack([owners, np.frombuffer(self._classes, np.uint32)]), axis=1)
        return select_stratified(
            pairs[0], pairs[1], list(self._class_numbers), num_documents, self._fraction, self._selection.seed
        )

    def num_characters(self, is_chosen: np.ndarray) -> int:
        """Counts the characters that cleaning left of some records.

        Args:
            is_chosen: [num_records] bool.
        """
        return int(np.frombuffer(self._sizes, np.uint64)[is_chosen].sum())


def select_random(num_documents: int, fraction: float, seed: int) -> np.ndarray:
    """Selects `fraction` of the documents, rounded, at least one and not all.

    Returns:
        Numbers of the documents of the validation split, increasing.

    Raises:
        UserError: There are fewer than two documents.
    """
    if num_documents < 2:
        raise UserError(
            f"data.eval_selection=random selects whole documents, but the data has {num_documents}: set "
            "data.eval_selection=tail, which cuts one document in two, or give more documents."
        )
    positions = permute(np.arange(num_documents), num_documents, ("held out", seed))
    return np.flatnonzero(positions < _share(num_documents, fraction))


def select_stratified(
    owners: np.ndarray, classes: np.ndarray, names: Sequence[str], num_documents: int, fraction: float, seed: int
) -> np.ndarray:
    """Selects `fraction` of the documents of each class, rounded, at least one of each class that has two or more.

    Rare classes come first, since a document with several classes counts for each of them. A document is never selected
    if it is the last one of a class in the training split: a class that only the validation split has cannot be learned.

    Args:
        owners: [num_pairs] Document of each (document, class) pair, each pair once.
        classes: [num_pairs] Number of the class.
        names: Names of the classes, by number.
        num_documents: Number of documents; dropped ones have no class.
        fraction: Share for validation.
        seed: Seed.

    Returns:
        [num_documents] bool.

    Raises:
        UserError: No class has two documents.

    Source: Sechidis et al. 2011, On the Stratification of Multi-Label Data (rarest label first).
    Differs: a quota for the validation split alone, filled in keyed order.
    """
    counts = np.bincount(classes, minlength=len(names))
    wanted = np.array([_share(count, fraction) for count in counts.tolist()], np.int64)
    by_class = np.split(owners[np.argsort(classes, kind="stable")], np.cumsum(counts)[:-1]) if len(names) else []
    classes_of = _Ragged(owners, classes, num_documents)
    left, held, held_out = counts.copy(), np.zeros(len(names), np.int64), np.zeros(num_documents, bool)
    for number in sorted(range(len(names)), key=lambda number: (counts[number], names[number])):
        documents = by_class[number]
        key = ("held out", seed, names[number])
        order = documents[np.argsort(permute(np.arange(len(documents)), len(documents), key))]
        # First documents whose other classes have not reached their share, then any.
        for may_exceed in (False, True):
            for document in order.tolist():
                if held[number] >= wanted[number]:
                    break
                own = classes_of[document]
                fits = may_exceed or (held[own] < wanted[own]).all()
                if fits and not held_out[document] and (left[own] > 1).all():
                    held_out[document] = True
                    left[own] -= 1
                    held[own] += 1
    if not held_out.any():
        raise UserError(
            "data.eval_selection=stratified finds no label on two records: check data.label_column, or set "
            "data.eval_selection=random."
        )
    return held_out


def _class_names(classes_of: Callable[[Record], Collection[str]], record: Record) -> Collection[str]:
    try:
        return classes_of(record) or (NO_CLASS,)
    except UserError as error:
        raise UserError(f"{record.origin}: {error}") from error


class _Ragged:
    """Classes of each document."""

    def __init__(self, owners: np.ndarray, classes: np.ndarray, num_documents: int):
        self._classes = classes[np.argsort(owners, kind="stable")].astype(np.int64)
        self._ends = np.cumsum(np.bincount(owners, minlength=num_documents))

    def __getitem__(self, document: int) -> np.ndarray:
        return self._classes[self._ends[document - 1] if document else 0 : self._ends[document]]


def _share(count: int, fraction: float) -> int:
    """Returns `fraction` of a number of documents, rounded, at least one and not all; 0 for one document."""
    return min(max(int(count * fraction + 0.5), 1), count - 1)
