"""Pairs of Python statements and their CPython bytecode; compiled, never run."""

import ast
import dis
import itertools
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxdp.data.demo_corpora.python_code import parse

MAX_CHARACTERS = 100
"""Maximum length of a statement."""

_SIMPLE = (ast.Assign, ast.AugAssign, ast.Delete, ast.Expr, ast.Raise, ast.Return)
_EXCLUDED = (  # they jump, or have a code object of their own
    ast.Await, ast.BoolOp, ast.DictComp, ast.GeneratorExp, ast.IfExp, ast.Lambda, ast.ListComp, ast.SetComp,
    ast.Yield, ast.YieldFrom,
)  # fmt: skip
_JUMPS = {*dis.hasjrel, *dis.hasjabs}
_IGNORED_OPS = {
    "CACHE", "COPY_FREE_VARS", "EXTENDED_ARG", "MAKE_CELL", "NOP", "NOT_TAKEN", "PRECALL", "PUSH_NULL", "RESUME",
}  # fmt: skip


class Compiled(NamedTuple):
    """Compiled statement: number of its line, from 1; its code as `ast.unparse` formats it; its instructions."""

    line: int
    code: str
    instructions: str


def compiled_statements(text: str, path: str) -> Iterator[Compiled]:
    """Yields the simple statements of a module that have a line for themselves, in the order of their lines.

    Instructions are formatted as `dis` prints them, with `; ` between two:
    `LOAD_FAST self; LOAD_ATTR size; RETURN_VALUE`. They differ between versions of Python. Left out are statements
    that jump, define functions, leave an `except` or a `finally`, or whose instructions are not consecutive (CPython
    duplicates a `finally`), and instructions without meaning (`NOP`).

    Args:
        text: Code with newlines as line ends.
        path: Path of the file, for messages.

    Raises:
        UserError: See `python_code.parse`.
    """
    tree = parse(text, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = compile(tree, path, "exec", dont_inherit=True, optimize=0)
    by_line = _instructions_by_line(module)
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    on_line = Counter(line for node in statements for line in _lines(node))
    for node in sorted(statements, key=lambda node: node.lineno):
        alone = node.lineno == node.end_lineno and on_line[node.lineno] == 1
        if not (alone and isinstance(node, _SIMPLE)) or any(isinstance(part, _EXCLUDED) for part in ast.walk(node)):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        instructions = _own(by_line.get(node.lineno, []), isinstance(node, ast.Return))
        code = ast.unparse(node)
        if instructions and len(code) <= MAX_CHARACTERS and "\n" not in code:
            yield Compiled(node.lineno, code, "; ".join(instructions))


def _lines(node: ast.stmt) -> set[int]:
    """Returns the first and the last line of a statement; of one with a body the first only."""
    return {node.lineno, node.end_lineno or node.lineno} if isinstance(node, _SIMPLE) else {node.lineno}


class _Instruction(NamedTuple):
    """Instruction; `position` counts those of its code object that are not ignored."""

    position: int
    code: types.CodeType
    value: dis.Instruction


def _instructions_by_line(module: types.CodeType) -> dict[int, list[_Instruction]]:
    """Returns the instructions of a module and all code in it by line, in order."""
    found: dict[int, list[_Instruction]] = {}
    waiting = [module]
    while waiting:
        code = waiting.pop()
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        kept = (each for each in dis.get_instructions(code) if each.opname not in _IGNORED_OPS)
        for position, value in enumerate(kept):
            line = value.positions.lineno if value.positions else None
            if line is not None:
                found.setdefault(line, []).append(_Instruction(position, code, value))
    return found


def _own(instructions: list[_Instruction], returns: bool) -> list[str]:
    """Returns the instructions of a statement without those that leave it; [] if the statement is left out."""
    while instructions and instructions[-1].value.opcode in _JUMPS:
        instructions = instructions[:-1]
    if not returns:
        instructions = _without_return(instructions)
    together = all(
        after.code is before.code and after.position == before.position + 1
        for before, after in itertools.pairwise(instructions)
    )
    names = [each.value.opname for each in instructions]
    leaves = bool(names) and names[-1].startswith("RETURN_")
    if (
        not together
        or leaves != returns
        or "POP_EXCEPT" in names
        or any(each.value.opcode in _JUMPS for each in instructions)
    ):
        return []
    return [_formatted(each) for each in instructions]


def _without_return(instructions: list[_Instruction]) -> list[_Instruction]:
    """Removes the `return None` that follows the last statement of a body."""
    names = [each.value.opname for each in instructions[-2:]]
    if names[-1:] == ["RETURN_CONST"]:
        return instructions[:-1]
    return instructions[:-2] if names[-1:] == ["RETURN_VALUE"] else instructions


def _formatted(instruction: _Instruction) -> str:
    _, code, value = instruction
    if value.opname == "KW_NAMES" and value.arg is not None:  # `dis` prints its index
        return f"KW_NAMES {code.co_consts[value.arg]!r}"
    if value.opcode in dis.hasconst:
        return f"{value.opname} {_constant(value.argval)}"
    argument = value.argrepr or ("" if value.arg is None else str(value.arg))
    return f"{value.opname} {argument}".rstrip()


def _constant(value: Any) -> str:
    """Formats a constant as `repr`, sets in sorted order: theirs differs from process to process (PYTHONHASHSEED)."""
    if isinstance(value, frozenset):
        return f"frozenset({{{', '.join(sorted(map(_constant, value)))}}})" if value else "frozenset()"
    if isinstance(value, tuple):
        return f"({', '.join(map(_constant, value))}{',' if len(value) == 1 else ''})"
    return repr(value)
