"""Python source code split into pieces; parsed, never run."""

import ast
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from jaxdp.errors import UserError

MAX_CHARACTERS, MIN_CHARACTERS = 800, 200
"""Limits of a piece: about 25 lines of code; a shorter one than the minimum has too little content to classify."""


class Piece(NamedTuple):
    """Lines of a module; `line` is the number of the first one, counted from 1."""

    line: int
    text: str


def parse(text: str, path: str) -> ast.Module:
    """Parses a module into its syntax tree.

    Raises:
        UserError: The running Python cannot parse it; names the line.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes such as "\d"
            return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{path}, line {line}," if line else path
        raise UserError(
            f"{where} is not code that this Python can parse ({getattr(error, 'msg', error)}): restore the file, "
            "or move it out of the folder if it does not belong there."
        ) from error


def cut_pieces(text: str, path: str) -> Iterator[Piece]:
    """Yields pieces of consecutive lines of a module, at most `MAX_CHARACTERS` long unless one line is longer.

    A piece ends at a blank line if its second half has one. Left out are lines before the first statement (a licence),
    imports, and pieces of less than `MIN_CHARACTERS`.

    Args:
        text: Code with newlines as line ends.
        path: Path of the file, for messages.

    Raises:
        UserError: See `parse`.
    """
    tree = parse(text, path)
    imports = {
        number
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
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
        if len(piece) - blank >= MIN_CHARACTERS:
            yield Piece(lines[start + blank].line, piece[blank:])
        start = end


def _piece_end(lines: list[Piece], start: int) -> int:
    """Returns the index of the line after the piece that begins at `start`."""
    size, end = len(lines[start].text), start + 1
    while end < len(lines) and size + 1 + len(lines[end].text) <= MAX_CHARACTERS:
        size += 1 + len(lines[end].text)
        end += 1
    if end < len(lines):
        for i in range(end, (start + end) // 2, -1):
            if not lines[i].text.strip():
                return i
    return end


def _first_line(node: ast.stmt) -> int:
    """Returns the number of the first line of a statement, decorators included."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])


def hide_word(word: str, text: str) -> str:
    """Replaces a word by `_` where it is a whole word."""
    return re.sub(rf"\b{re.escape(word)}\b", "_", text)
