"""Two files line by line: which lines belong together, and what cannot."""

import gzip
import lzma
import re

import pytest

from jaxdp.data.reading import file_content
from jaxdp.data.reading.files import find_files
from jaxdp.data.reading.parallel_text import pair_files
from jaxdp.errors import UserError


def found(path, content, key="data.path"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return find_files(str(path), (), key)


def paired(tmp_path, source, target, errors="strict"):
    """The only part of two files with these contents."""
    sources = found(tmp_path / "a.en", source)
    [part] = pair_files(sources, found(tmp_path / "a.de", target, "data.target_path"), errors)
    return part


def pairs(part):
    return [(record.fields["source"], record.fields["target"]) for record in part.read()]


@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 20])
def test_line_n_belongs_to_line_n(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(file_content, "BLOCK_BYTES", block_bytes)
    part = paired(tmp_path, 'one\n"two\n\n\nfive\u2028,\n', "eins\nzwei\tü\n\nvier\n\r")
    assert list(part.read()) == list(part.read())
    assert [(r.fields, r.origin, r.continues) for r in part.read()] == [
        ({"source": "one", "target": "eins"}, "a.en + a.de, line 1", False),
        ({"source": '"two', "target": "zwei\tü"}, "a.en + a.de, line 2", False),
        ({"source": "", "target": "vier"}, "a.en + a.de, line 4", False),
        ({"source": "five\u2028,", "target": ""}, "a.en + a.de, line 5", False),
    ]


def test_ends_of_lines_and_marks_are_of_the_file_not_of_the_text(tmp_path):
    expected = [("one", "eins"), ("two", "zwei")]
    for source, target in (
        ("one\ntwo\n", "eins\nzwei\n"),
        ("\ufeffone\r\ntwo\r\n", "eins\nzwei"),
        ("one\ntwo", "\ufeffeins\r\nzwei\r\n"),
    ):
        assert pairs(paired(tmp_path, source, target)) == expected


@pytest.mark.parametrize(
    "source, target, numbers",
    [
        ("1\n2\n3\n", "1\n2\n", (3, 2)),
        ("1\n2\n", "1\n2\n3\n4\n5", (2, 5)),
        ("1\n", "1\n2\n", (1, 2)),
        ("1\n2\n", "1\n2\n\n", (2, 3)),
        ("1\n" * 1500, "1\n", ("1,500", 1)),
    ],
)
def test_files_of_different_length(tmp_path, source, target, numbers):
    word = "line" if numbers[0] == 1 else "lines"
    message = (
        rf"a\.en \(data\.path\) has {numbers[0]} {word} and \S*a\.de \(data\.target_path\) {numbers[1]}, but line N of one "
        r"belongs to line N of the other"
    )
    with pytest.raises(UserError, match=message):
        pairs(paired(tmp_path, source, target))


def test_a_file_beside_an_empty_one_has_no_partners(tmp_path):
    sources = [*found(tmp_path / "a", "1\n"), *found(tmp_path / "b", "2\n")]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "0").write_text("")
    (tmp_path / "empty" / "1").write_text("1\n")
    targets = find_files(str(tmp_path / "empty"), (), "data.target_path", keep_empty=True)
    with pytest.raises(UserError, match=r"a \(data\.path\) has 1 line and \S*empty/0 \(data\.target_path\) 0, "):
        pairs(pair_files(sources, targets, "strict")[0])


def test_compressed_files(tmp_path):
    sources = found(tmp_path / "a.en.gz", gzip.compress(b"one\ntwo\n"))
    targets = found(tmp_path / "a.de.xz", lzma.compress(b"eins\nzwei\n"))
    [part] = pair_files(sources, targets, "strict")
    assert pairs(part) == [("one", "eins"), ("two", "zwei")]
    assert part.name == "a.en.gz + a.de.xz"
    assert part.num_bytes == sources[0].num_bytes + targets[0].num_bytes
    assert sources[0].stamp in part.stamp and targets[0].stamp in part.stamp


def test_bytes_that_are_not_utf8_are_named_on_either_side(tmp_path):
    for sides, name in (((b"a\n\xff\n", b"b\nb\n"), "a.en"), ((b"b\nb\n", b"a\n\xff\n"), "a.de")):
        with pytest.raises(UserError, match=rf"{re.escape(name)}, line 2, is not UTF-8 text: byte 0xff at offset 2"):
            pairs(paired(tmp_path, *sides))
        assert "\ufffd" in pairs(paired(tmp_path, *sides, errors="replace"))[1]


@pytest.mark.parametrize(
    "num_sources, num_targets, message",
    [
        (2, 1, r"^data\.path names 2 files and data\.target_path 1 file, .* so that \S*s1 has no partner"),
        (1, 3, r"^data\.path names 1 file and data\.target_path 3 files, .* so that \S*t1 has no partner"),
    ],
)
def test_as_many_files_on_both_sides(tmp_path, num_sources, num_targets, message):
    sources = [file for n in range(num_sources) for file in found(tmp_path / f"s{n}", "x")]
    targets = [file for n in range(num_targets) for file in found(tmp_path / f"t{n}", "x", "data.target_path")]
    with pytest.raises(UserError, match=message):
        pair_files(sources, targets, "strict")
