"""Text encodings of data files: content in `data.encoding` is read as UTF-8; a guess for files that are not UTF-8."""

import codecs
import itertools
import re
from collections.abc import Iterator

from jaxdp.errors import UserError

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks; that of UTF-32 begins like that of UTF-16."""

MAX_RUN, MAX_HIGH_SHARE = 2, 0.5
"""Bytes above 0x7f in a row, and their share of the letters, up to which they are taken for Western letters with accents."""

_HIGH, _HIGH_RUNS, _LETTERS = re.compile(rb"[\x80-\xff]"), re.compile(rb"[\x80-\xff]+"), re.compile(rb"[A-Za-z]")


def check_encoding(encoding: str) -> None:
    """Raises UserError unless the encoding is one of text that Python knows."""
    try:
        "".encode(encoding)
        codecs.getincrementaldecoder(encoding)
    except (LookupError, ValueError) as error:
        raise UserError(
            f"data.encoding={encoding!r} is unknown: expected a text encoding such as utf-8, latin-1, cp1252, utf-16 or gb18030."
        ) from error


def as_utf8(blocks: Iterator[bytes], encoding: str, errors: str, where: str) -> Iterator[bytes]:
    """Yields content as UTF-8, without its byte order mark if the encoding has one.

    Args:
        blocks: Content in `encoding`.
        encoding: Name of the encoding, checked.
        errors: Handling of bytes that are not of the encoding: `strict`, `replace` or `surrogateescape`, which keeps them.
        where: File, for messages.

    Raises:
        UserError: Bytes that are not of the encoding.
    """
    decoder, size = codecs.getincrementaldecoder(encoding)(errors), 0
    back = "surrogateescape" if errors == "surrogateescape" else "strict"
    try:
        for block in itertools.chain(blocks, [b""]):
            held = len(decoder.getstate()[0])  # bytes of earlier blocks that are part of a character
            if text := decoder.decode(block, final=not block):
                yield text.encode("utf-8", back)
            size += len(block)
    except UnicodeError as error:  # a plain one for UTF-16 without a byte order mark
        found = str(error)
        if isinstance(error, UnicodeDecodeError):
            found = f"byte 0x{error.object[error.start]:02x} at offset {size - held + error.start}"
        raise UserError(
            f"{where} is not text in data.encoding={encoding}: {found}; set data.encoding to what the file is in, or "
            "data.errors=replace to read such bytes as U+FFFD."
        ) from error


def guessed_encoding(content: bytes) -> str | None:
    """Returns the encoding that content seems to have which is not UTF-8; None if nothing speaks for one.

    Args:
        content: A line or more from the file, with the bytes that are not UTF-8.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return encoding
    high, runs = _HIGH.findall(content), _HIGH_RUNS.findall(content)
    if not high or max(map(len, runs)) > MAX_RUN or len(high) > MAX_HIGH_SHARE * (len(high) + len(_LETTERS.findall(content))):
        return None
    return "cp1252" if any(b"\x80" <= byte < b"\xa0" for byte in high) else "latin-1"
