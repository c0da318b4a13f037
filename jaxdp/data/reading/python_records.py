"""Records of a Python iterable or a Hugging Face dataset in memory, known by the fingerprint of their content (`data.source=python`)."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from jaxdp.arguments import shown
from jaxdp.data.reading.record_source import Rows, SourceRecords, open_records
from jaxdp.data.reading.records import Columns, Part
from jaxdp.data.reading.source_spec import SourceSpec
from jaxdp.errors import UserError

_RECORDS: dict[str, Rows] = {}
"""Records of this process by fingerprint, so that a run of this process can be evaluated on them again."""


def keep_records(data: Iterable[Mapping[str, Any]]) -> str:
    """Keeps records for the source `python` of this process and returns their fingerprint, the value of `data.name`.

    Args:
        data: Dicts from column to value, read once, or a `datasets.Dataset`, which has a fingerprint of its own.

    Raises:
        UserError: It is neither, or a value has no fingerprint; names the record.
    """
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        hint = "; choose a split of it, such as data['train']" if isinstance(data, Mapping) else ""
        raise UserError(f"data must be an iterable of dicts or a datasets.Dataset, found {shown(data)}{hint}.")
    own = getattr(data, "_fingerprint", None)
    if isinstance(own, str):
        _RECORDS[own] = data
        return own
    records, digest = list(data), hashlib.sha256()
    for number, record in enumerate(records):
        digest.update(_content(record, f"data, record {number}"))
    fingerprint = f"sha256:{digest.hexdigest()[:32]}"
    _RECORDS[fingerprint] = records
    return fingerprint


def open_python(spec: SourceSpec, columns: Columns) -> tuple[list[Part], list[Part] | None]:
    """Opens the records of `data.name`.

    Raises:
        UserError: They were given to `jaxdp.train` in another process, or one lacks a column.
    """
    fingerprint = spec.name
    if fingerprint is None or fingerprint not in _RECORDS:
        raise UserError(
            f"data.source=python: the records with the fingerprint data.name={spec.name} are not known to this process; "
            "give them to jaxdp.train(..., data=records)."
        )
    return open_records(lambda _: SourceRecords(fingerprint, _RECORDS[fingerprint]), spec, columns)


def _content(record: Any, where: str) -> bytes:
    """Returns a record as bytes that equal records share.

    Raises:
        UserError: It is not a dict, or has a value without such bytes.
    """
    if not isinstance(record, Mapping):
        raise UserError(f"{where} must be a dict from column to value, found {shown(record)}.")
    try:
        return json.dumps(dict(record), sort_keys=True, default=_plain).encode("utf-8", "surrogatepass") + b"\n"
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{where} has a value that cannot be fingerprinted ({error}); give strings, numbers and lists."
        ) from error


def _plain(value: Any) -> Any:
    """Returns a value of NumPy, pandas or datetime as JSON.

    Raises:
        TypeError: It is of another type.
    """
    for method in ("tolist", "isoformat", "hex"):
        if callable(found := getattr(value, method, None)):
            return found()
    raise TypeError(f"of type {type(value).__name__}")
