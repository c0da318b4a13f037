"""Python code cut into pieces; parsed, never run."""

import ast
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from jaxdp.errors import UserError

MOST_CHARACTERS, LEAST_CHARACTERS = 800, 200
"""Of a piece of a module: some 25 lines of code; less than the least tells too little."""


class Piece(NamedTuple):
    """Lines of a module. `line` is the number of the first one, from 1."""

    line: int
    text: str


def parse(text: str, path: str) -> ast.Module:
    """The syntax tree of a module.

    Raises:
        UserError: it is no Python that this Python reads. Names the line.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes such as "\d", which are not ours to fix
            return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}," if line else path
        raise UserError(
            f"{where} is no code that this Python reads ({getattr(error, 'msg', error)}): restore the file, "
            "or move it out of the folder if it does not belong there."
        ) from error


def cut_pieces(text: str, path: str) -> Iterator[Piece]:
    """Consecutive lines of a module, at most `MOST_CHARACTERS` of them unless one line is longer.

    A piece ends at a blank line where its second half has one. What stands before
    the first statement (a licence) and lines of imports are left out, and pieces of
    less than `LEAST_CHARACTERS`.

    Args:
        text: with `\\n` at the end of lines.
        path: for errors.

    Raises:
        UserError: see `parse`.
    """
    tree = parse(text, path)
    imports = {
        number
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for number in range(node.lineno, node.end_lineno + 1)
    }
    first = min((_first_line(node) for node in tree.body), default=1)
    lines = [
        Piece(number, line)
        for number, line in enumerate(text.split("\n"), 1)
        if number >= first and number not in imports
    ]
    start = 0
    while start < len(lines):
        end = _piece_end(lines, start)
        piece = "\n".join(line.text for line in lines[start:end]).rstrip()
        blank = len(piece) - len(piece.lstrip("\n"))
        if len(piece) - blank >= LEAST_CHARACTERS:
            yield Piece(lines[start + blank].line, piece[blank:])
        start = end


def _piece_end(lines: list[Piece], start: int) -> int:
    """Index of the line behind the piece that begins at `start`."""
    size, end = len(lines[start].text), start + 1
    while end < len(lines) and size + 1 + len(lines[end].text) <= MOST_CHARACTERS:
        size += 1 + len(lines[end].text)
        end += 1
    if end < len(lines):
        for i in range(end, (start + end) // 2, -1):
            if not lines[i].text.strip():
                return i
    return end


def _first_line(node: ast.stmt) -> int:
    """Number of a statement's first line, decorators included."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])


def hide_word(word: str, text: str) -> str:
    """The text with `_` for a word, where it stands as a whole word."""
    return re.sub(rf"\b{re.escape(word)}\b", "_", text)
