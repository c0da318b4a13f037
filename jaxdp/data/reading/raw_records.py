"""Records with all of their fields, from a file or a stream in any supported format; a bad record is reported at its position."""

import codecs
import csv
import dataclasses
import io
import json
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

from jaxdp.data.reading.arrow import read_all_columns
from jaxdp.data.reading.file_content import read_blocks, read_lines
from jaxdp.data.reading.files import DataFile, find_files, unreadable
from jaxdp.data.reading.json_values import read_json
from jaxdp.data.reading.tables import delimiter_of, guessed_delimiter, read_table
from jaxdp.errors import UserError
from jaxdp.paths import check_not_empty
from jaxdp.quoting import quoted, quoted_names

STDIN = "-"

HEAD_BYTES = 1 << 16
"""Number of bytes at the start of a stream by which its format is recognised."""

MAX_FIRST_LINES = 5
"""Number of lines that are searched for a JSON object if the first line begins like one."""


class RawRecord(NamedTuple):
    """Record with all of its fields.

    Attributes:
        where: File and line, row or element, for messages.
        value: Fields by name, or a text of a format without names; None if it cannot be read.
        error: Reason why it cannot be read; None if it can.
    """

    where: str
    value: Mapping[str, Any] | str | None
    error: UserError | None = None


def open_input(
    name: str, key: str, stdin: BinaryIO | None, given: str | None, columns: Sequence[str], delimiter: str | None = None
) -> DataFile:
    """Finds a file to read once, and its format.

    Args:
        name: Path, URL, or `-` for standard input.
        key: Option that holds the name, for messages.
        stdin: Standard input; None: `name` is another.
        given: One of FORMATS; None: the ending of the name says it, else the content, see `recognize`.
        columns: Columns that are wanted, by which the header of a table is recognised.
        delimiter: Between the fields of a table that is no TSV; None: a comma.

    Returns:
        A file whose name ends in the ending of its format and compression.

    Raises:
        UserError: It does not exist, is empty, cannot be read, or is several files.
    """
    check_not_empty(name, key)
    path = os.path.expanduser(name)
    is_stream = name == STDIN or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path))
    if is_stream:
        try:
            stream = stdin if name == STDIN and stdin is not None else open(path, "rb")  # noqa: SIM115 (read by the caller)
            content = _Stream(stream, stream.read(HEAD_BYTES))
        except OSError as error:
            raise unreadable(error, name, key) from error
        where = "standard input" if name == STDIN else name
        file = DataFile(where, where, None, "", key, content, delimiter=delimiter)
        return _with_format(file, content.head, given, columns)
    if os.path.isfile(path) and not os.path.getsize(path):
        raise UserError(f"{key}: {name} is empty; give a file with records.")
    files = find_files(name, (), key)
    if len(files) > 1 or os.path.isdir(path):
        raise UserError(f"{key}={name} is not one file: give the name of a file, or pipe several into standard input.")
    [file] = files
    if file.kind != ".tsv":
        file = dataclasses.replace(file, delimiter=delimiter)
    if given is None and file.kind in _ENDINGS:
        return file
    return _with_format(file, next(read_blocks(dataclasses.replace(file, name="")), b"")[:HEAD_BYTES], given, columns)


def _with_format(file: DataFile, head: bytes, given: str | None, columns: Sequence[str]) -> DataFile:
    compression, content = _decompressed(head)
    form = given or recognize(content, columns, file.delimiter or ",")
    name = f"{file.name}.{form}{compression}"
    if form == "tsv":
        file = dataclasses.replace(file, delimiter=None)
    if form == "parquet" and isinstance(file.filesystem, _Stream):
        return dataclasses.replace(file, name=name, filesystem=file.filesystem.in_temporary_file())
    return dataclasses.replace(file, name=name)


class _Stream(io.BufferedIOBase):
    """Something that can be read once, as the file system of a `DataFile` and as the file in it.

    Args:
        stream: The rest of it.
        head: What has been read already.
    """

    def __init__(self, stream: BinaryIO, head: bytes):
        self._stream, self.head = stream, head

    def open(self, path: str, mode: str) -> "_Stream":
        return self

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            found, self.head = self.head, b""
            return found + self._stream.read()
        if not self.head:
            return self._stream.read(size)
        found, self.head = self.head[:size], self.head[size:]
        return found

    def in_temporary_file(self) -> "_Seekable":
        """Returns the content in a temporary file, as the file system of a `DataFile`."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 (read by the caller)
        while block := self.read(1 << 20):
            file.write(block)
        file.seek(0)
        return _Seekable(file)


@dataclasses.dataclass(frozen=True)
class _Seekable:
    file: BinaryIO

    def open(self, path: str, mode: str) -> BinaryIO:
        return self.file


_MAGIC = {b"\x1f\x8b": ".gz", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}


def _decompressed(head: bytes) -> tuple[str, bytes]:
    """Returns the ending of the compression by the first bytes (or none), and the content that they decompress to."""
    ending = next((ending for magic, ending in _MAGIC.items() if head.startswith(magic)), "")
    try:
        if ending == ".gz":
            return ending, zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
        if ending == ".xz":
            return ending, lzma.LZMADecompressor().decompress(head, HEAD_BYTES)
        if ending == ".zst":
            import pyarrow

            return ending, pyarrow.CompressedInputStream(pyarrow.BufferReader(head), "zstd").read(HEAD_BYTES)
    except (zlib.error, lzma.LZMAError, OSError):
        return ending, b""  # reading says what is wrong
    return ending, head


def recognize(head: bytes, columns: Sequence[str], delimiter: str = ",") -> str:
    """Returns the format that the start of a content tells, one of FORMATS.

    Parquet by its first bytes; a JSON array by `[` and then an object or a text; JSON lines by an object in the
    first line (or in one of the next, where the first begins like one and is broken); TSV or CSV by a first line
    that is a header with all `columns`. Anything else is text, one record a line.

    Args:
        head: Decompressed bytes.
        columns: Columns that are wanted.
        delimiter: Between the fields of CSV.
    """
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    start = text.lstrip()
    if start[:1] == "[" and start[1:].lstrip()[:1] in ("{", '"', "]"):
        return "json"
    lines = [line.removesuffix("\r") for line in text.split("\n") if line.strip()][:MAX_FIRST_LINES] or [""]
    if lines[0].lstrip()[:1] == "{" and any(map(_is_object, lines)):
        return "jsonl"
    for form, separator in (("tsv", "\t"), ("csv", delimiter)):
        header = next(csv.reader(lines[:1], delimiter=separator), [])
        is_header = bool(columns) and set(columns) <= set(header)
        if is_header and (form == "csv" or len(header) > 1):
            return form
    return "text"


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def read_raw(file: DataFile, columns: Sequence[str], errors: str) -> Iterator[RawRecord]:
    """Yields the records of a file with all of their fields, through the readers of training data.

    Args:
        file: From `open_input`.
        columns: Columns that a table must have; of JSON each record is looked at by itself.
        errors: `strict` or `replace`, as `data.errors`: with `strict` a record with bytes that are not UTF-8 is bad, and
            one of a text or a table with a NUL character.

    Raises:
        UserError: What keeps all further records from being read.
    """
    lenient = "surrogateescape" if errors == "strict" else errors
    for record in _ENDINGS[file.kind](file, lenient, columns):
        yield record if record.error or errors != "strict" else _checked(record, file.kind in _NUL_FREE)


def _read_text(file: DataFile, errors: str, columns: Sequence[str]) -> Iterator[RawRecord]:
    for number, line in enumerate(read_lines(file, errors), 1):
        yield RawRecord(f"{file.path}, line {number}", line.removesuffix("\r"))


def _read_json(file: DataFile, errors: str, columns: Sequence[str]) -> Iterator[RawRecord]:
    for number, value in read_json(file, errors):
        where = f"{file.path}, {number}"
        if isinstance(value, UserError):
            yield RawRecord(where, None, value)
        elif not isinstance(value, dict | str):
            yield RawRecord(
                where,
                None,
                UserError(
                    f"{where} holds {quoted(value, 40)}, expected a JSON object or a string: correct or leave it out."
                ),
            )
        else:
            yield RawRecord(where, value)


def _read_table(file: DataFile, errors: str, columns: Sequence[str]) -> Iterator[RawRecord]:
    header, rows = read_table(file, errors)
    if header:
        _check_header(file, header, columns)
    for number, row in rows:
        where = f"{file.path}, line {number}"
        if isinstance(row, UserError):
            yield RawRecord(where, None, row)
        else:
            yield RawRecord(where, dict(zip(header, row, strict=True)))


def _read_parquet(file: DataFile, errors: str, columns: Sequence[str]) -> Iterator[RawRecord]:
    for number, fields in enumerate(read_all_columns(file, columns, errors)):
        yield RawRecord(f"{file.path}, row {number}", fields)


def _check_header(file: DataFile, header: Sequence[str], columns: Sequence[str]) -> None:
    if any("\0" in name for name in header):
        raise UserError(f"{file.path}: its header has a NUL character, which no text has; {_NUL_CURE}.")
    for column in columns:
        if column not in header:
            guess = guessed_delimiter(file, header, columns)
            hint = (
                f", or separate its fields by {delimiter_of(file)!r} and not by {guess!r}, as the run's data has them"
                if guess
                else ""
            )
            raise UserError(
                f"{file.path}: its header has no column {column!r}, which the run was trained with; it has "
                f"{quoted_names(header)}: rename the column, or give another --format{hint}."
            )
        if header.count(column) > 1:
            raise UserError(f"{file.path}: its header names column {column!r} more than once; rename one.")


def _checked(record: RawRecord, is_nul_free: bool) -> RawRecord:
    """Returns the record, or its error if it has bytes that are not text, which `surrogateescape` has kept."""
    value = record.value
    fields = {"": value} if isinstance(value, str) else value or {}
    for name, text in fields.items():
        if is_nul_free and "\0" in text:
            where = f"{record.where}: column {quoted(name)}" if name else record.where
            error = UserError(
                f"{where} has a NUL character at offset {text.index(chr(0))}, which no text has; {_NUL_CURE}."
            )
            return RawRecord(record.where, None, error)
        if isinstance(text, str) and not text.isascii():
            at = next((at for at, letter in enumerate(text) if "\udc80" <= letter <= "\udcff"), None)
            if at is not None:
                offset = len(text[:at].encode("utf-8", "surrogatepass"))
                where = f"{record.where}: column {quoted(name)}" if name else record.where
                byte = ord(text[at]) - 0xDC00
                error = UserError(
                    f"{where} is not UTF-8 text: byte 0x{byte:02x} at offset {offset}; convert it to UTF-8."
                )
                return RawRecord(record.where, None, error)
    return record


Read = Callable[[DataFile, str, Sequence[str]], Iterator[RawRecord]]

_ENDINGS: dict[str, Read] = {
    ".csv": _read_table, ".tsv": _read_table, ".json": _read_json, ".jsonl": _read_json, ".ndjson": _read_json,
    ".parquet": _read_parquet, ".text": _read_text, ".txt": _read_text,
}  # fmt: skip
"""Ending of a name, without that of a compression -> reader."""

_NUL_FREE = (".csv", ".tsv", ".text", ".txt")
"""Formats in which a NUL character is a sign of another encoding; JSON and Parquet say one in another way."""

_NUL_CURE = "UTF-16 text has them in every second byte: convert it to UTF-8, as with `iconv -f UTF-16LE -t UTF-8`"

FORMATS = ("text", "csv", "tsv", "json", "jsonl", "parquet")
"""Formats by name."""
