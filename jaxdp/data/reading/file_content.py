"""Content of a file: decompressed bytes in blocks, and text lines."""

import contextlib
import gzip
import itertools
import lzma
import tempfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from jaxdp.data.reading.encodings import as_utf8, guessed_encoding, without_nul
from jaxdp.data.reading.files import DataFile, unreachable, unreadable
from jaxdp.errors import UserError

BLOCK_BYTES = 1 << 20
"""Number of bytes that are read at once."""


def read_blocks(file: DataFile) -> Iterator[bytes]:
    """Yields the content of a file in blocks of any size, decompressed as the ending of its name says.

    Raises:
        UserError: The file cannot be read, is cut short, or is not compressed as its name says.
    """
    with contextlib.ExitStack() as stack:
        with _user_errors(file):
            stream = stack.enter_context(_open(file))
            stream = stack.enter_context(_DECOMPRESSORS[file.compression](stream))
        while True:
            with _user_errors(file):
                block = stream.read(BLOCK_BYTES)
            if not block:
                return
            yield block


def read_text_blocks(file: DataFile, errors: str) -> Iterator[bytes]:
    """Yields the content of a text file as UTF-8, in blocks; one with a `file.encoding` is converted.

    Args:
        file: See `read_blocks`.
        errors: Handling of NUL characters, and of bytes that are not of that encoding; without one only NUL is checked.

    Raises:
        UserError: See `read_blocks`, `encodings.as_utf8` and `encodings.without_nul`.
    """
    blocks = read_blocks(file)
    if file.encoding is not None:
        blocks = as_utf8(blocks, file.encoding, errors, file.path)
    return without_nul(blocks, errors, file.path, file.encoding)


def read_lines(file: DataFile, errors: str) -> Iterator[str]:
    """Yields the lines of a file, without the newline that ends them; if it has none, a carriage return does, as on old Macs.

    A byte order mark at the start is left out.

    Args:
        file: File in UTF-8 or its `encoding`.
        errors: Handling of bytes that are not UTF-8: `strict` raises, `replace` reads them as U+FFFD.

    Raises:
        UserError: See `read_blocks`; bytes are not UTF-8, with line and offset.
    """
    return decoded_lines(read_text_blocks(file, errors), errors, file.path)


def decoded_lines(blocks: Iterator[bytes], errors: str, path: str) -> Iterator[str]:
    """Yields the lines of content in UTF-8, see `read_lines`.

    Args:
        blocks: Content from its first byte on.
        errors: See `read_lines`.
        path: Path of the file, for messages.

    Raises:
        UserError: Bytes are not UTF-8, with line and offset.
    """
    start = 0
    for number, line in enumerate(_byte_lines(blocks), 1):
        try:
            text = line.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            where = f"{path}, line {number},"
            raise not_utf8(where, line[error.start], start + error.start, content=line) from error
        yield text.removeprefix("\ufeff") if number == 1 else text
        start += len(line) + 1


def _byte_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    head = b""
    while len(head) < BLOCK_BYTES and (block := next(blocks, b"")):
        head += block
    # The last byte may be the first half of `\r\n`.
    end = b"\r" if b"\n" not in head and b"\r" in head[:-1] else b"\n"
    held = []  # start of a line whose end has not been read yet
    for block in itertools.chain([head], blocks):
        *ended, rest = block.split(end)
        if ended:
            yield b"".join([*held, ended[0]])
            yield from ended[1:]
            held = []
        held.append(rest)
    if last := b"".join(held):
        yield last


@contextlib.contextmanager
def open_seekable(file: DataFile) -> Iterator[BinaryIO]:
    """Opens a file for reading in any order; a compressed one is decompressed to disk first.

    Raises:
        UserError: See `read_blocks`.
    """
    with contextlib.ExitStack() as stack:
        if file.compression:
            stream = stack.enter_context(tempfile.TemporaryFile())
            for block in read_blocks(file):
                stream.write(block)
            stream.seek(0)
        else:
            with _user_errors(file):
                stream = stack.enter_context(_open(file))
        yield stream


def _open(file: DataFile) -> BinaryIO:
    if file.filesystem is None:
        return open(file.path, "rb")
    return file.filesystem.open(file.path, "rb")


def _zstd(stream: BinaryIO):
    import pyarrow  # a dependency of `datasets`, so that zstd needs no further package

    return pyarrow.CompressedInputStream(stream, "zstd")


_DECOMPRESSORS = {None: contextlib.nullcontext, "gzip": gzip.open, "xz": lzma.open, "zstd": _zstd}


@contextlib.contextmanager
def _user_errors(file: DataFile) -> Iterator[None]:
    """Turns errors of opening and reading a file into UserErrors."""
    kind = file.compression
    try:
        yield
    except EOFError as error:
        raise _cut_short(file) from error
    except (zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _not_compressed(file, error) from error
    except OSError as error:
        if kind == "zstd" and error.errno is None:  # raised by pyarrow, which has no class for it
            raise (_cut_short(file) if "Truncated" in str(error) else _not_compressed(file, error)) from error
        raise unreadable(error, file.path, file.key) from error
    except Exception as error:
        if file.filesystem is None:
            raise
        raise unreachable(file.path, error, file.key) from error


def _cut_short(file: DataFile) -> UserError:
    return UserError(
        f"{file.path} was cut short: its {file.compression} data stops before its end; copy or download it again."
    )


def _not_compressed(file: DataFile, error: Exception) -> UserError:
    return UserError(
        f"{file.path} is damaged, or no {file.compression} file ({error}): copy or download it "
        "again, or give it a name that says what it is."
    )


def not_utf8(where: str, byte: int, offset: int, of: str = "", content: bytes | None = None) -> UserError:
    """Returns the error for a byte that is not UTF-8.

    Args:
        where: File, and line if there are lines.
        byte: First invalid byte.
        offset: Offset of that byte.
        of: Base of the offset unless it is the (decompressed) file: ` of the text`.
        content: Text around that byte of a file that may have another encoding; None: it may not.
    """
    message = f"{where} is not UTF-8 text: byte 0x{byte:02x} at offset {offset}{of}; "
    if content is not None:
        guess = guessed_encoding(bytes(content))
        message += f"it looks like {guess}: " if guess else ""
        message += f"set data.encoding={guess or 'NAME to the encoding that it has (such as gb18030)'}, or "
    return UserError(
        f"{message}set data.errors=replace to read such bytes as U+FFFD, or leave the file out with a glob in data.path."
    )
