"""Normalised source code, without comments, docstrings and layout, for comparing programs."""

import ast
import threading

_PARSING = threading.Lock()
"""CPython's `ast` counts its recursion for the whole process: two threads that parse disturb each other."""


def normalized_source(source: str | bytes) -> str:
    """Returns the syntax tree of a Python source as text, docstrings left out.

    Raises:
        SyntaxError: The source is not valid Python.
    """
    with _PARSING:
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [child for child in node.body if not _is_text(child)]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    """Returns True for a statement that is only a string: a docstring, or the description of a constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
