"""Labels of records: read, counted over the training split, numbered, kept as `labels.json`.

A label is a string, an integer or a boolean; several labels of one record are a list, or a string with a separator.
For regression the mean and the standard deviation of the numbers are kept instead of names.
"""

import dataclasses
import functools
import json
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from jaxdp.atomic_files import write_atomically
from jaxdp.errors import UserError
from jaxdp.json_files import read_json
from jaxdp.quoting import quoted, quoted_names

Kind = Literal["single_label", "multi_label", "regression"]
KINDS: tuple[Kind, ...] = get_args(Kind)

LABELS_FORMAT = 1
"""Format number of the output of `LabelCensus`; part of the cache keys.

Raise it when a change gives other names, another order or other statistics for the same records.
"""

_MAX_DIGITS = 1000  # longest label that is compared as an integer; Python refuses to parse more than 4300 digits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """Labels of the training split.

    Attributes:
        kind: One label per record, any number of them, or a number.
        num_records: Number of records of the training split.
        names: Names of the labels in the order of their numbers; () for regression.
        counts: Number of records that have each label.
        mean: Mean of the numbers (regression).
        deviation: Standard deviation of the numbers, above 0 (regression).
    """

    kind: Kind
    num_records: int
    names: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0

    def number(self, name: str) -> int:
        """Returns the number of a label.

        Raises:
            UserError: No record of the training split has the label.
        """
        if name not in self._numbers:
            raise UserError(
                f"the label {quoted(name)} is on no record of the training split, which has "
                f"{quoted_names(self.names)}: correct it, leave the record out, or train on some that have it; "
                "data.eval_selection=stratified holds out no label that training lacks."
            )
        return self._numbers[name]

    def standardised(self, values: npt.ArrayLike) -> np.ndarray:
        """Standardises numbers: subtracts the mean and divides by the deviation, `[...]` float64.

        Args:
            values: Numbers in the unit of the labels, of any shape.
        """
        return (np.asarray(values, np.float64) - self.mean) / self.deviation

    def in_unit_of_labels(self, values: npt.ArrayLike) -> np.ndarray:
        """Returns standardised numbers in the unit of the labels: `[...]` float64."""
        return np.asarray(values, np.float64) * self.deviation + self.mean

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a JSON file; it is whole or absent."""
        write_atomically(Path(path), json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n")


def load_labels(path: str | os.PathLike[str]) -> Labels:
    """Reads the labels that `Labels.save` wrote.

    Raises:
        UserError: The file does not exist, or holds something else.
    """
    content = read_json(path, "the labels.json of a run; restore it from a copy")
    try:
        content |= {name: tuple(content[name]) for name in ("names", "counts")}
        labels = Labels(**content)
    except (TypeError, KeyError) as error:
        raise UserError(f"{path} is not a file of labels ({error!r}): expected the labels.json of a run.") from error
    if problem := _problem(labels):
        raise UserError(f"{path} is not a file of labels ({problem}): expected the labels.json of a run.")
    return labels


def _problem(labels: Labels) -> str | None:
    """Returns what makes labels different from any that `Labels.save` writes; None if nothing does."""
    if labels.kind not in KINDS:
        return f"kind is {quoted(labels.kind)}"
    if not all(isinstance(name, str) for name in labels.names) or len(set(labels.names)) < len(labels.names):
        return "names are not distinct strings"
    if len(labels.counts) != len(labels.names) or not all(map(_is_count, (labels.num_records, *labels.counts))):
        return "num_records and counts are not integers, one for each name"
    if labels.kind != "regression" and len(labels.names) < 2:
        return "there are fewer than 2 names"
    if not all(isinstance(value, int | float) and abs(value) < 2.0**1023 for value in (labels.mean, labels.deviation)):
        return "mean and deviation are not finite numbers"
    return None if labels.deviation > 0 else "the deviation is not above 0"


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


class LabelCensus:
    """Collects the labels of the training split, record by record.

    Args:
        kind: Kind of the labels.
        separator: Separator between several labels in one string.
    """

    def __init__(self, kind: Kind, separator: str):
        self._kind: Kind = kind
        self._separator = separator
        self._counts: Counter[str] = Counter()
        self._num_records = 0
        self._mean = self._squares = 0.0  # `_squares` is the sum of squared distances from the mean

    def add(self, value: Any) -> None:
        """Adds the label of a record.

        Raises:
            UserError: The label is empty, or is not a number for regression.
        """
        self._num_records += 1
        if self._kind == "regression":
            # Welford 1962: sums of squares would cancel where the mean is large.
            distance = label_number(value) - self._mean
            self._mean += distance / self._num_records
            self._squares += distance * (label_number(value) - self._mean)
        elif self._kind == "multi_label":
            self._counts.update(label_texts(value, self._separator))
        else:
            self._counts[label_text(value)] += 1

    def labels(self) -> Labels:
        """Returns all labels, integers in numerical order, strings in the order of their characters.

        Raises:
            UserError: There are fewer than two labels.
        """
        if self._kind == "regression":
            if not math.isfinite(self._squares):
                raise UserError(
                    f"The labels of the {self._num_records} training records are too large for float64: expected "
                    "numbers whose squares stay below 1.8e308; give them in a larger unit."
                )
            if not self._squares > 0:
                raise UserError(
                    f"All {self._num_records} training records have the same number as their label: "
                    "there is nothing to learn; check data.label_column."
                )
            deviation = math.sqrt(self._squares / self._num_records)
            return Labels(kind=self._kind, num_records=self._num_records, mean=self._mean, deviation=deviation)
        if len(self._counts) < 2:
            raise UserError(
                f"The {self._num_records} training records have {quoted_names(self._counts) or 'no label'}, "
                "expected 2 or more different labels: check data.label_column; of data that is sorted by label "
                "data.eval_selection=stratified trains on every label, where the tail holds some out whole."
            )
        names = sorted(self._counts)
        if all(name.removeprefix("-").isdecimal() and len(name) <= _MAX_DIGITS for name in names):
            names.sort(key=int)
        return Labels(
            kind=self._kind,
            num_records=self._num_records,
            names=tuple(names),
            counts=tuple(self._counts[name] for name in names),
        )


def label_text(value: Any) -> str:
    """Returns the single label of a record, as its name.

    Raises:
        UserError: It is empty, a list, or a number that is not an integer.
    """
    if isinstance(value, list | tuple):
        raise UserError(
            f"the label is the list {quoted(value)}, expected a single one: set "
            "classification.kind=multi_label if a record may have several."
        )
    if isinstance(value, float):
        if not value.is_integer():
            raise UserError(
                f"the label is {quoted(value)}, expected a string, an integer or a boolean: set "
                "classification.kind=regression to predict numbers."
            )
        value = int(value)
    text = str(value).lower() if isinstance(value, bool) else str(value).strip()
    if not text:
        raise UserError("the label is empty, expected one: fix it or leave the record out.")
    return text


def label_texts(value: Any, separator: str) -> tuple[str, ...]:
    """Returns all labels of a record, each once, from a list or a string with separators."""
    values = value.split(separator) if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    return tuple(dict.fromkeys(label_text(each) for each in values if str(each).strip()))


def record_classes(kind: Kind, separator: str) -> Callable[[Any], tuple[str, ...]]:
    """Returns the function that gives the names of the classes of a record, from the value of its label.

    Args:
        kind: Not regression, which has no classes.
        separator: Between several labels of one text.
    """
    if kind == "multi_label":
        return lambda value: label_texts(value, separator)
    return lambda value: (label_text(value),)


def label_number(value: Any) -> float:
    """Returns the number that is the label of a record.

    Raises:
        UserError: It is not a finite number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):  # OverflowError: an integer beyond float64
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"the label is {quoted(value)}, expected a finite number, as classification.kind=regression predicts one: "
            "fix it or leave the record out."
        )
    return number
