"""Readers of text files and JSON Lines.

Each reader is a generator that holds one record and a block or two of its file.
"""

from collections.abc import Iterator

from jaxdp.data.reading.file_content import not_utf8, read_text_blocks
from jaxdp.data.reading.files import DataFile
from jaxdp.data.reading.json_values import read_json
from jaxdp.data.reading.records import Columns, Record, kind_of, select_fields
from jaxdp.errors import UserError

PIECE_BYTES = 8 << 20
"""Size above which texts are read in pieces, since tokenizing one takes a hundred times its size in memory."""


def read_text(file: DataFile, columns: Columns, errors: str, piece_bytes: int = PIECE_BYTES) -> Iterator[Record]:
    """Yields the whole text of a file, in column `text`; in pieces if it is longer than `piece_bytes`.

    A piece ends after the last newline of its first `piece_bytes` bytes; without one, between two characters. The pieces are
    a function of the content alone, and joined they are the text.

    Args:
        file: File in UTF-8, which is kept byte by byte with carriage returns and byte order marks; or in its `encoding`.
        columns: Unused.
        errors: Handling of bytes that are not UTF-8: `strict` raises, `replace` reads them as U+FFFD.
        piece_bytes: Maximum number of bytes of a piece, 4 or more.

    Raises:
        UserError: The file cannot be read, or is not UTF-8.
    """
    held, start = bytearray(), 0
    for block in read_text_blocks(file, errors):
        held += block
        while len(held) > piece_bytes:
            end = _piece_end(held, piece_bytes)
            yield _piece(file, held[:end], start, errors, continues=True)
            del held[:end]
            start += end
    if held:
        yield _piece(file, held, start, errors, continues=False)


def _piece_end(content: bytearray, piece_bytes: int) -> int:
    end = content.rfind(b"\n", 0, piece_bytes) + 1
    if end:
        return end
    end = content.rfind(b" ", 1, piece_bytes + 1)
    if end > 0:
        return end
    # 10xxxxxx continues a character; more than three of them in a row are not UTF-8.
    ends = range(piece_bytes, piece_bytes - 4, -1)
    return next((i for i in ends if content[i] >> 6 != 0b10), piece_bytes)


def _piece(file: DataFile, content: bytearray, start: int, errors: str, continues: bool) -> Record:
    try:
        text = content.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise not_utf8(
            file.path, content[error.start], start + error.start, content=_around(content, error.start)
        ) from error
    origin = f"{file.name}, from byte {start}" if start else file.name
    return Record({"text": text}, origin, continues)


def _around(content: bytearray, position: int) -> bytes:
    """Returns the line at this position, of a long one some hundred bytes."""
    start = max(content.rfind(b"\n", 0, position) + 1, position - 200)
    return bytes(content[start : position + 200]).partition(b"\n")[0]


def read_jsonl(file: DataFile, columns: Columns, errors: str) -> Iterator[Record]:
    """Yields one record per line, each a JSON object; blank lines are skipped. A `.json` file may be one list of objects.

    Args:
        file: UTF-8 file.
        columns: Columns that every object must have; other fields are left out. `a.b` is the field of that name, or if
            there is none the field `b` of the object `a`.
        errors: See `read_text`; also for half a surrogate pair, as a JSON escape can write it.

    Raises:
        UserError: The file cannot be read or is not UTF-8; a line is not JSON or not an object, or an object lacks a column
            or has something else in it. Names the line.
    """
    for number, value in read_json(file, errors):
        if isinstance(value, UserError):
            raise value
        where = f"{file.path}, {number}"
        if not isinstance(value, dict):
            raise UserError(
                f"{where} holds {kind_of(value)}, expected a JSON object, "
                'such as {"text": "..."}: correct or leave it out.'
            )
        yield Record(select_fields(value, columns, where, errors), f"{file.name}, {number}")
