"""Statements and their instructions, against what `dis` says of a function that has the statement alone."""

import dis
import textwrap

import pytest

from jaxdp.data.demo_corpora.bytecode import MAX_CHARACTERS, compiled_statements

STATEMENTS = [
    "self.x = x + 1",
    "x += y * 2",
    "del self.x[y]",
    "x, y = (y, x)",
    "self.call(x, 'a b', y)",
    "raise ValueError(f'{x} is wrong')",
    "return self.x[1:y]",
    "return",
    "print(x)",
]
QUIET = ("CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL", "RESUME", "NOT_TAKEN")


def statements(code):
    return [tuple(each) for each in compiled_statements(textwrap.dedent(code), "a.py")]


def instructions(statement):
    """Of the statement as the whole body of a function."""
    space = {}
    exec(f"def function(self, x, y):\n    {statement}\n", space)
    said = [each for each in dis.get_instructions(space["function"]) if each.opname not in QUIET]
    if not statement.startswith("return") and said[-1].opname.startswith("RETURN_"):
        said = said[: -1 if said[-1].opname == "RETURN_CONST" else -2]
    return "; ".join(
        f"{each.opname} {each.argrepr or ('' if each.arg is None else each.arg)}".rstrip() for each in said
    )


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_statement_alone_and_among_others(statement):
    expected = instructions(statement)
    assert expected
    assert statements(f"def f(self, x, y):\n    {statement}\n") == [(2, statement, expected)]
    among = f"""
    class Box:
        def f(self, x, y):
            while y:
                if x:
                    {statement}
                else:
                    x = 5
            return x
    """
    found = statements(among)
    assert (6, statement, expected) in found
    assert [line for line, _, _ in found] == [6, 8, 9]


def test_keywords_of_a_call_are_named():
    [(_, _, said)] = statements("call(1, size=2)")
    assert "('size',)" in said


def test_code_is_as_python_writes_it():
    """Comments, spaces and superfluous brackets are in no instruction."""
    assert [code for _, code, _ in statements("x = ( 1+y )  # one more\nx = 'a' \"b\"\n")] == ["x = 1 + y", "x = 'ab'"]


@pytest.mark.parametrize(
    "code",
    [
        "x = 1; y = 2",
        "x = call(1,\n         2)",
        "if x: y = 1",
        "x = y if z else 0",
        "x = y and z",
        "x = [y for y in z]",
        "x = lambda: 1",
        "pass",
        "import a",
        "def f():\n    yield 1",
        "try:\n    a = 1 / b\nfinally:\n    close()",
        f"x = '{'y' * MAX_CHARACTERS}'",
    ],
)
def test_what_is_left_out(code):
    assert [each for each in statements(code) if each[1] != "a = 1 / b"] == []


def test_a_return_out_of_a_handler_is_left_out():
    code = """
    def f(x):
        try:
            x = x.value
        except AttributeError as error:
            return error.name
        return x
    """
    assert [line for line, _, _ in statements(code)] == [4, 7]


def test_a_return_before_a_finally_is_left_out():
    """What runs in between stands between its value and the instruction that returns it."""
    code = """
    def f(x):
        try:
            return x.value
        finally:
            close()
    """
    assert statements(code) == []


def test_names_are_those_of_their_place():
    """The same statement reads a global name in one place and a local one in another."""
    found = statements("x = y\ndef f(y):\n    x = y\n")
    assert [line for line, _, _ in found] == [1, 3]
    assert found[0][1] == found[1][1] and found[0][2] != found[1][2]


def test_wrong_escapes_are_read_without_a_warning():
    assert [code for _, code, _ in statements("x = '\\d'")] == ["x = '\\\\d'"]


def test_lines_end_where_python_ends_them():
    """A form feed is no end of line, nor is what only Unicode calls one."""
    assert [(line, code) for line, code, _ in statements("x = 1\n\f\ny = '\u2028'")] == [
        (1, "x = 1"),
        (3, r"y = '\u2028'"),
    ]


def test_sets_are_sorted_whatever_the_order_of_the_process():
    """The order of a set of strings follows PYTHONHASHSEED, and the corpus must be one in every process."""
    [found] = compiled_statements('found = name in {"h", "b", "a", "g", "c", "f", "e", "d"}\n', "sets.py")
    assert "frozenset({'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'})" in found.instructions
    [found] = compiled_statements("pair = (1, ('a',), ())\n", "tuples.py")
    assert "LOAD_CONST (1, ('a',), ())" in found.instructions
