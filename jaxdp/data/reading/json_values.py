"""JSON reader: one value a line (JSON Lines, NDJSON), or the elements of one array, in bounded memory."""

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from jaxdp.data.reading.file_content import decoded_lines, not_utf8, read_text_blocks
from jaxdp.data.reading.files import DataFile
from jaxdp.errors import UserError

ARRAY_KIND = ".json"
"""Ending of the files that may hold one array; other JSON files hold one value a line."""

_TAIL = 32
"""Number of characters at the end of a buffer where a JSON error may be due to the cut, e.g. half a `false` or `\\u00e4`."""

_PARTS_OF_MARK = tuple(codecs.BOM_UTF8[:size] for size in range(len(codecs.BOM_UTF8)))

_BLANKS = re.compile(r"[ \t\r\n]*+")

Value = tuple[str, Any]
"""(`line 3` or `element 3`, counted from 1; the value, or the UserError of one that cannot be decoded)."""


def read_json(file: DataFile, errors: str) -> Iterator[Value]:
    """Yields the JSON values of a file in order; blank lines are skipped.

    Args:
        file: UTF-8 file. One named `.json` whose first character is `[` is an array of values.
        errors: Handling of bytes that are not UTF-8: `strict`, `replace` or `surrogateescape`.

    Raises:
        UserError: The file cannot be read, is not UTF-8, or is an array that is broken: what follows the broken
            element cannot be found. A broken line is yielded, and the lines after it are read.
    """
    blocks = read_text_blocks(file, errors)
    if file.kind == ARRAY_KIND:
        start = _start(blocks)
        blocks = itertools.chain([start], blocks)
        if start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            yield from _array_elements(file, _Buffer(_decoded_blocks(blocks, file.path, errors)))
            return
    for number, line in enumerate(decoded_lines(blocks, errors, file.path), 1):
        if line and not line.isspace():
            yield f"line {number}", _decoded(line, file, number)


def _start(blocks: Iterator[bytes]) -> bytes:
    """Reads content up to a block with a non-blank character."""
    start = b""
    for block in blocks:
        start += block
        if start not in _PARTS_OF_MARK and start.removeprefix(codecs.BOM_UTF8).strip():
            break
    return start


def _decoded(line: str, file: DataFile, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return UserError(
            f"{file.path}, line {number} is no JSON ({_reason(error)}): expected one object a line, "
            'such as {"text": "..."}; correct or leave out this line.'
        )


def _reason(error: Exception) -> str:
    return f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)


def _array_elements(file: DataFile, text: "_Buffer") -> Iterator[Value]:
    text.skip()  # the `[`
    number = 0
    while number or text.peek() != "]":
        number += 1
        try:
            value = text.decode()
        except (ValueError, RecursionError) as error:
            raise _broken(file, f"element {number} is no JSON ({getattr(error, 'msg', error)})") from error
        yield f"element {number}", value
        mark = text.peek()
        if mark == "]":
            break
        if mark != ",":
            found = repr(mark) if mark else "the end of the file"
            raise _broken(file, f"element {number} is followed by {found}, expected a comma or the closing bracket")
        text.skip()
    text.skip()  # the `]`
    if text.peek():
        raise _broken(file, "there is more after the closing bracket of its array")


def _broken(file: DataFile, why: str) -> UserError:
    return UserError(f"{file.path}: {why}; correct the file, or write it as one JSON object a line (.jsonl).")


class _Buffer:
    """Text of a file from a position on; memory holds one element and a block.

    Args:
        blocks: Text of the file.
    """

    def __init__(self, blocks: Iterator[str]):
        self._blocks = blocks
        self._held, self._at = "", 0  # text before `_at` has been consumed

    def _after_blanks(self) -> int:
        blanks = _BLANKS.match(self._held, self._at)
        assert blanks is not None, "no blanks match too"
        return blanks.end()

    def peek(self) -> str:
        """Returns the next character that is not blank; empty at the end of the file."""
        while (at := self._after_blanks()) == len(self._held) and self._read():
            pass
        return self._held[at : at + 1]

    def skip(self) -> None:
        """Drops the next character that is not blank, and the blanks before it."""
        self.peek()
        self._at = self._after_blanks() + 1

    def decode(self) -> Any:
        """Decodes and drops the next value.

        Raises:
            ValueError: It is not valid JSON.
        """
        self.peek()
        while True:
            start = self._after_blanks()
            try:
                value, end = _DECODER.raw_decode(self._held, start)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._held) - _TAIL
                if not (is_cut and self._read()):
                    raise
                continue
            is_number_at_end = isinstance(value, int | float) and end >= len(self._held) - _TAIL
            if not (is_number_at_end and self._read()):  # a number may continue in the next block
                self._at = end
                return value

    def _read(self) -> bool:
        """Appends as much text as is held, at least a block; at the end of the file it changes nothing and returns False."""
        pieces, size = [self._held[self._at :]], 0
        while size < max(len(pieces[0]), 1) and (block := next(self._blocks, "")):
            pieces.append(block)
            size += len(block)
        if size:
            self._held, self._at = "".join(pieces), 0
        return size > 0


_DECODER = json.JSONDecoder()


def _decoded_blocks(blocks: Iterator[bytes], path: str, errors: str) -> Iterator[str]:
    """Yields the text of content in UTF-8, in blocks without the byte order mark."""
    decoder, size = codecs.getincrementaldecoder("utf-8")(errors), 0
    is_first = True
    for block in itertools.chain(blocks, [b""]):
        held = len(decoder.getstate()[0])  # bytes of earlier blocks that belong to a character
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            around = error.object[max(error.start - 200, 0) : error.start + 200]
            raise not_utf8(path, error.object[error.start], size - held + error.start, content=around) from error
        size += len(block)
        if text and is_first:
            text, is_first = text.removeprefix("\ufeff"), False
        if text:
            yield text
