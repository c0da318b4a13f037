import gzip
import lzma
import os

import pyarrow
import pytest

from jaxdp.data.reading import file_content
from jaxdp.data.reading.file_content import open_seekable, read_blocks, read_lines
from jaxdp.data.reading.files import DataFile
from jaxdp.errors import UserError


def zstd(content):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd}


def data_file(path):
    return DataFile(str(path), path.name, path.stat().st_size)


def content(file):
    return b"".join(read_blocks(file))


@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_files_are_read_in_small_blocks(tmp_path, ending, monkeypatch):
    text = bytes(range(256)) * 40
    once = COMPRESS[ending](text)
    path = tmp_path / f"a.txt{ending}"
    monkeypatch.setattr(file_content, "BLOCK_BYTES", 1000)
    for stored, expected in ((once, text), (once + once, text + text)):  # as `cat` joins two files
        path.write_bytes(stored)
        blocks = list(read_blocks(data_file(path)))
        assert b"".join(blocks) == expected
        assert max(map(len, blocks)) <= 1000


@pytest.mark.parametrize("ending", COMPRESS)
def test_damaged_compressed_files(tmp_path, ending):
    stored = COMPRESS[ending](os.urandom(5000))
    path = tmp_path / f"a.txt{ending}"
    kind = {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}[ending]
    for end in (3, 100, len(stored) - 1):
        path.write_bytes(stored[:end])
        with pytest.raises(UserError, match=rf"a\.txt{ending} was cut short: its {kind} data"):
            content(data_file(path))
    damaged = [b"plain text that is not compressed", stored[:50] + bytes(50) + stored[100:]]
    for wrong in damaged[: 1 if ending == ".zst" else 2]:  # zstd need not keep a checksum
        path.write_bytes(wrong)
        with pytest.raises(UserError, match=rf"a\.txt{ending} is damaged, or no {kind} file"):
            content(data_file(path))


def test_lines_end_at_newlines_only_and_do_not_depend_on_blocks(tmp_path, monkeypatch):
    text = "\ufeffa\r\n\n\u2028b\x85ü\x0c\n" + "long" * 10 + "\nlast \ufeff"
    path = tmp_path / "a"
    for content in (text, text + "\n"):
        path.write_bytes(content.encode())
        for block_bytes in (1, 7, 1 << 20):
            monkeypatch.setattr(file_content, "BLOCK_BYTES", block_bytes)
            lines = list(read_lines(data_file(path), "strict"))
            assert lines == ["a\r", "", "\u2028b\x85ü\x0c", "long" * 10, "last \ufeff"]


def test_line_that_is_not_utf8(tmp_path):
    path = tmp_path / "a"
    path.write_bytes("ü\nxy".encode() + b"\xff\xfez\n")
    with pytest.raises(UserError, match=r"a, line 2, is not UTF-8 text: byte 0xff at offset 5; .*errors=replace"):
        list(read_lines(data_file(path), "strict"))
    assert list(read_lines(data_file(path), "replace")) == ["ü", "xy\ufffd\ufffdz"]


def test_compressed_file_to_seek_in(tmp_path):
    path = tmp_path / "a.zst"
    path.write_bytes(zstd(b"0123456789"))
    with open_seekable(data_file(path)) as stream:
        stream.seek(7)
        assert stream.read() == b"789"


def test_files_are_closed(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 100)
    opened = []

    def remember(*args):
        opened.append(open(*args))  # noqa: SIM115 - the test sees whether the reader closes it
        return opened[-1]

    monkeypatch.setattr(file_content, "open", remember, raising=False)
    monkeypatch.setattr(file_content, "BLOCK_BYTES", 10)
    blocks = read_blocks(data_file(path))
    next(blocks)
    blocks.close()
    assert opened[0].closed
