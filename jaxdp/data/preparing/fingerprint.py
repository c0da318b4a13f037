"""Fingerprint of the training data: SHA-256 of its records."""

import hashlib
from collections.abc import Iterable
from typing import Any

from jaxdp.data.reading.records import Record


class Fingerprint:
    """Incremental SHA-256 of the origins and fields of records, in order.

    A run records it, so that it cannot be resumed on other data.

    Args:
        columns: Fields that count, in this order.
    """

    def __init__(self, columns: Iterable[str]):
        self._columns = tuple(columns)
        self._digest = hashlib.sha256()
        self._part_digest = hashlib.sha256()

    def add(self, record: Record) -> None:
        """Adds the next record."""
        fields = record.fields
        content = _encoded(record.origin) + b"".join([_encoded(fields[column]) for column in self._columns])
        content += _CONTINUES if record.continues else _ENDS
        self._digest.update(content)
        self._part_digest.update(content)

    def end_part(self) -> str:
        """Ends a part; returns the hexadecimal SHA-256 of its records alone."""
        digest, self._part_digest = self._part_digest.hexdigest(), hashlib.sha256()
        return digest

    def hexdigest(self) -> str:
        """Returns the digest of the records so far, in hexadecimal."""
        return self._digest.hexdigest()


def _encoded(value: Any) -> bytes:
    """Encodes a value with its kind and size first, so that no two sequences of values give the same bytes."""
    if isinstance(value, str):
        kind, content = b"t", value
    elif isinstance(value, list):
        kind, content = b"l", str(len(value))
    elif isinstance(value, float):
        kind, content = b"f", repr(value)
    else:  # a boolean counts as a number
        kind, content = b"n", str(int(value))
    content = content.encode("utf-8", "surrogatepass")
    encoded = kind + len(content).to_bytes(8, "little") + content
    return encoded + b"".join(map(_encoded, value)) if isinstance(value, list) else encoded


_CONTINUES, _ENDS = _encoded(True), _encoded(False)
