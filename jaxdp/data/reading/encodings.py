"""Text encodings of data files: conversion of `data.encoding` to UTF-8, refusal of NUL characters, a guess for other files."""

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
"""Maximum run of bytes above 0x7f, and their maximum share of the letters, for Western letters with accents."""

MAX_WIDE_BYTES, MIN_NUL_SHARE = 1 << 16, 0.02
"""Number of bytes that are examined for an encoding of 2 or 4 bytes per character; minimum share of NUL bytes, which blanks alone
reach in UTF-16 of any script."""

_HIGH, _HIGH_RUNS, _LETTERS = re.compile(rb"[\x80-\xff]"), re.compile(rb"[\x80-\xff]+"), re.compile(rb"[A-Za-z]")


def check_encoding(encoding: str) -> None:
    """Raises UserError unless Python has a text encoding of this name."""
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
            held = len(decoder.getstate()[0])  # bytes of earlier blocks that belong to a character
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


def without_nul(blocks: Iterator[bytes], errors: str, where: str, encoding: str | None = None) -> Iterator[bytes]:
    """Yields content in UTF-8, in which no text has a NUL character: UTF-16 read as UTF-8 has one in every second byte.

    Content that begins with a byte order mark of another encoding passes: it is not UTF-8, which decoding reports.

    Args:
        blocks: Content from its first byte on.
        errors: Handling of NUL characters: `strict` refuses them, `replace` reads them as U+FFFD, `surrogateescape` keeps them.
        where: File, for messages.
        encoding: Encoding that the content was converted from, for messages; None: UTF-8.

    Raises:
        UserError: A NUL character, with its offset.
    """
    start, is_marked = 0, False
    for block in blocks:
        if b"\0" in block and errors != "surrogateescape":
            is_marked = is_marked or (start == 0 and any(block.startswith(mark) for mark, _ in _MARKS))
            if errors != "strict":
                block = block.replace(b"\0", "\ufffd".encode())
            elif not is_marked:
                raise _nul_found(block, start, where, encoding)
        yield block
        start += len(block)


def _nul_found(block: bytes, start: int, where: str, encoding: str | None) -> UserError:
    """Returns the error for a NUL character in a block that begins at offset `start`."""
    content = f"{where}, read as {encoding or 'utf-8'}," if encoding else where
    guess = guessed_wide_encoding(block[-start % 4 :]) if encoding is None else None
    cure = (
        f"it looks like {guess} without a byte order mark: set data.encoding={guess}"
        if guess
        else "a binary file cannot be read, and text in another encoding needs data.encoding, such as data.encoding=utf-16-le"
    )
    return UserError(
        f"{content} has a NUL character at offset {start + block.index(0)}, which no text has; {cure}; from a text with "
        "few of them, remove them, or set data.errors=replace to read them as U+FFFD."
    )


def guessed_wide_encoding(content: bytes) -> str | None:
    """Returns the encoding of 2 or 4 bytes per character that the positions of NUL bytes indicate; None if they indicate none.

    Args:
        content: Part of a file that begins at a multiple of 4 bytes.
    """
    head = content[: len(content[:MAX_WIDE_BYTES]) // 4 * 4]
    nuls = [head[place::4].count(0) for place in range(4)]
    size = len(head) // 4
    if sum(nuls) < max(2, MIN_NUL_SHARE * len(head)):
        return None
    for encoding, low, high in (("utf-32-le", 0, (2, 3)), ("utf-32-be", 3, (0, 1))):
        if all(nuls[place] >= 0.9 * size for place in high) and nuls[low] <= 0.1 * size:
            return encoding
    little, big = nuls[1] + nuls[3], nuls[0] + nuls[2]
    if min(little, big) <= 0.1 * max(little, big):
        return "utf-16-le" if little > big else "utf-16-be"
    return None


def guessed_encoding(content: bytes) -> str | None:
    """Returns the encoding other than UTF-8 that content seems to have; None if nothing indicates one.

    Args:
        content: A line or more of the file, with the bytes that are not UTF-8.
    """
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return encoding
    high, runs = _HIGH.findall(content), _HIGH_RUNS.findall(content)
    if (
        not high
        or max(map(len, runs)) > MAX_RUN
        or len(high) > MAX_HIGH_SHARE * (len(high) + len(_LETTERS.findall(content)))
    ):
        return None
    return "cp1252" if any(b"\x80" <= byte < b"\xa0" for byte in high) else "latin-1"
