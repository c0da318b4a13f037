"""Prediction requests: records cleaned and tokenized as training data was, their other fields kept for the answer."""

import base64
import dataclasses
import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdp.data.cleaning.cleaner import Cleaner, TextChanges
from jaxdp.data.reading.raw_records import RawRecord
from jaxdp.data.reading.records import MISSING, Record, encodable, value_at
from jaxdp.data.source_entries import source_entries
from jaxdp.data.tokenizers import Tokenizer
from jaxdp.errors import UserError
from jaxdp.quoting import quoted_names
from jaxdp.run_config import DataConfig
from jaxdp.tasks import Task

ERROR = "error"
"""Key of an answer that says why there is none."""

INPUT = "input_"
"""Prefix of a field of the record whose name the answer needs."""

MAX_DEPTH = 100
"""Nesting of lists and objects in a field that is passed through."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A record that the model is to answer, or that it cannot.

    Attributes:
        passed: Fields of the record other than those that the task reads.
        example: What `Task.prepare_for_predict` made of it; None if `error` says why there is nothing.
        reserved: Names that answers of the task have, or an error.
        error: One sentence.
        is_cut: Whether it has more tokens than the model reads.
    """

    passed: Mapping[str, Any]
    reserved: tuple[str, ...] = ()
    example: Mapping[str, np.ndarray] | None = None
    error: str | None = None
    is_cut: bool = False

    def answer(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the fields that are passed through and those of the answer, whose names win."""
        passed = {}
        for name, value in self.passed.items():
            while name in found or name in self.reserved or name in passed:
                name = INPUT + name
            passed[name] = value
        return passed | dict(found)


def request_columns(data: DataConfig, task: Task) -> dict[str, str]:
    """Returns the column of each field that the task needs to predict: that of the run's sources, where they agree."""
    columns = {}
    for field in task.predict_fields:
        named = {entry[f"{field}_column"] for entry in source_entries(data)}
        columns[field] = named.pop() if len(named) == 1 else getattr(data, f"{field}_column")
    return columns


class RequestReader:
    """Turns records into requests.

    Args:
        data: Data configuration of the run.
        task: Task of the run.
        tokenizer: Tokenizer of the run.
        prediction_names: Keys of an answer.
    """

    def __init__(self, data: DataConfig, task: Task, tokenizer: Tokenizer, prediction_names: Sequence[str]):
        self._data, self._task, self._tokenizer = data, task, tokenizer
        self._columns = request_columns(data, task)
        self._reserved = (*prediction_names, ERROR)
        self._changes: TextChanges = Cleaner(data.cleaning, task.predict_fields).changes()

    def __call__(self, records: Iterable[RawRecord]) -> Iterator[Request]:
        """Yields one request a record, in order; a record that cannot be used becomes a request with an error."""
        for record in records:
            yield self._request(record)

    def _request(self, record: RawRecord) -> Request:
        if record.error is not None:
            return Request({}, error=str(record.error))
        asked, passed = set(self._columns.values()), {}
        try:
            if isinstance(record.value, Mapping):
                passed = {str(name): _plain(value) for name, value in record.value.items() if name not in asked}
            fields = self._fields(record)
            cleaned = self._changes.around(self._task.protected_strings, Record(fields, record.where))
            example = self._task.prepare_for_predict(cleaned.fields, self._tokenizer)
            return Request(passed, self._reserved, example, is_cut=self._is_long(example))
        except UserError as error:
            said = str(error)
            said = said if said.startswith(record.where) else f"{record.where}: {said}"
            return Request(passed, self._reserved, error=said)

    def _fields(self, record: RawRecord) -> dict[str, str]:
        """Returns the texts to predict from, by the task's names."""
        fields = {}
        for field, column in self._columns.items():
            value = value_at(record.value, column) if isinstance(record.value, Mapping) else record.value
            if not isinstance(value, str):
                found = "has no" if value is MISSING or value is None else f"has {type(value).__name__}, not"
                raise UserError(
                    f"it {found} text in {column!r}, the column that the run was trained with; it has "
                    f"{quoted_names(list(record.value or ())) or 'nothing'}."
                )
            fields[field] = encodable(value, column, record.where, self._data.errors)
        return fields

    def _is_long(self, example: Mapping[str, np.ndarray]) -> bool:
        """Returns whether an example has to be cut.

        Raises:
            UserError: It must not be.
        """
        task, capacity = self._task, self._task.row_lengths["tokens"]
        num_tokens = len(example["tokens"]) + bool(task.generated_field)  # a source ends with eos
        if num_tokens > capacity and self._data.long_documents == "error":
            raise UserError(
                f"it has {num_tokens} tokens, but the model reads {capacity}: "
                "shorten it, or train with data.long_documents=cut, which cuts here too."
            )
        return num_tokens > capacity


def _plain(value: Any, depth: int = 0) -> Any:
    """Returns a value of a record as JSON has it: times and other objects of Parquet as text, bytes in Base64.

    Raises:
        UserError: It is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise UserError(f"a field is nested more than {MAX_DEPTH} levels deep; leave it out.")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, depth + 1) for inner in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)


def raw_records(records: Iterable[str | Mapping[str, Any]]) -> Iterator[RawRecord]:
    """Yields records that a caller gave, as those of a file are."""
    for number, record in enumerate(records, 1):
        yield RawRecord(f"record {number}", record)


def examples_of(requests: Sequence[Request]) -> list[Mapping[str, np.ndarray]]:
    """Returns the examples of the requests that have one."""
    return [request.example for request in requests if request.example is not None]
