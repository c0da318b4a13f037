"""Reader of parallel text: two files whose lines are pairs."""

import itertools
from collections.abc import Iterator, Sequence

from jaxdp.data.reading.file_content import read_lines
from jaxdp.data.reading.files import DataFile
from jaxdp.data.reading.records import Part, Record
from jaxdp.errors import UserError

COLUMNS = ("source", "target")
"""Columns of the two sides."""


def pair_files(sources: Sequence[DataFile], targets: Sequence[DataFile], errors: str) -> list[Part]:
    """Pairs the files of both sides in order, each pair as one part.

    Args:
        sources: Source files, sorted by name.
        targets: Target files, sorted by name.
        errors: See `readers.read_text`.

    Raises:
        UserError: One side has more files.
    """
    if len(sources) != len(targets):
        (source, target), sides = (sources[0].key, targets[0].key), (sources, targets)
        alone = max(sides, key=len)[min(map(len, sides))]
        raise UserError(
            f"{source} names {_count(len(sources), 'file')} and {target} {_count(len(targets), 'file')}, paired in "
            f"the order of their names, so that {alone.path} has no partner: name as many on both sides."
        )
    return [_part(source, target, errors) for source, target in zip(sources, targets, strict=True)]


def _part(source: DataFile, target: DataFile, errors: str) -> Part:
    return Part(
        _name(source, target),
        (source.num_bytes or 0) + (target.num_bytes or 0),
        f"{source.stamp} + {target.stamp}",
        lambda: read_pairs(source, target, errors),
        source.remarks + target.remarks,
    )


def _name(source: DataFile, target: DataFile) -> str:
    return f"{source.name} + {target.name}"


def read_pairs(source: DataFile, target: DataFile, errors: str) -> Iterator[Record]:
    """Yields one record per line of both files, in columns `source` and `target`.

    A line that is empty in both is left out.

    Args:
        source: UTF-8 file whose lines end with LF or CRLF.
        target: UTF-8 file whose lines end with LF or CRLF.
        errors: See `readers.read_text`.

    Raises:
        UserError: A file cannot be read or is not UTF-8, or one has more lines, which is detected at the end.
    """
    name = _name(source, target)
    lines = read_lines(source, errors), read_lines(target, errors)
    for number, pair in enumerate(itertools.zip_longest(*lines), 1):
        if None in pair:
            num_lines = [number - (line is None) + sum(1 for _ in rest) for line, rest in zip(pair, lines, strict=True)]
            raise UserError(
                f"{source.path} ({source.key}) has {_count(num_lines[0], 'line')} and {target.path} ({target.key}) "
                f"{num_lines[1]}, but line N of one belongs to line N of the other: give two files of as many lines."
            )
        fields: dict[str, str] = dict(zip(COLUMNS, (line.removesuffix("\r") for line in pair), strict=True))
        if any(fields.values()):
            yield Record(fields, f"{name}, line {number}")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"
