import pytest

from jaxdp.data.demo_corpora.bytecode import compiled_statements
from jaxdp.data.demo_corpora.python_code import (
    MAX_CHARACTERS,
    MIN_CHARACTERS,
    cut_pieces,
    hide_word,
)
from jaxdp.errors import UserError


def module(num_functions):
    """Functions of two paragraphs, each telling its number."""
    return "\n\n".join(
        f"def function_{i}(first, second):\n    total_{i} = first + second * {i}\n\n    return total_{i}\n"
        for i in range(num_functions)
    )


def test_pieces_are_the_lines_of_the_module():
    text = module(100)
    pieces = list(cut_pieces(text, "a.py"))
    lines = text.split("\n")
    for piece in pieces:
        assert MIN_CHARACTERS <= len(piece.text) <= MAX_CHARACTERS
        own = piece.text.split("\n")
        assert own == lines[piece.line - 1 : piece.line - 1 + len(own)]
        assert own[0] and own[-1]
    assert len(pieces) >= len(text) / MAX_CHARACTERS
    # Cut at blank lines, so that nothing but blank lines is lost, and no paragraph is torn.
    together = "\n".join(piece.text for piece in pieces)
    assert [line for line in together.split("\n") if line] == [line for line in lines if line]
    assert all(together.count(f"total_{i} = ") == 1 for i in range(100))
    assert all(piece.text.startswith(("def ", "    return")) for piece in pieces)


def test_pieces_without_blank_lines_are_cut_at_lines():
    text = "\n".join(f"name_{i} = {i}" for i in range(480))
    pieces = list(cut_pieces(text, "a.py"))
    assert "\n".join(piece.text for piece in pieces) == text
    assert all(MAX_CHARACTERS - 20 < len(piece.text) <= MAX_CHARACTERS for piece in pieces[:-1])


def test_a_long_line_is_a_piece():
    long = f'long = "{"x" * 2 * MAX_CHARACTERS}"'
    pieces = list(cut_pieces(f"{module(10)}\n{long}\n{module(10)}", "a.py"))
    assert [piece.text for piece in pieces if len(piece.text) > MAX_CHARACTERS] == [long]


def test_pieces_tell_neither_licence_nor_imports():
    head = '# Copyright of the authors\n\n"""What it does."""\nimport first\nfrom second import (\n    third,\n    fourth,\n)\n'
    inner = "def function():\n    import fifth\n    return fifth\n"
    [piece] = cut_pieces(head + inner + "x = 1\n" * 50, "a.py")
    assert piece.line == 3
    assert piece.text == '"""What it does."""\ndef function():\n    return fifth\n' + "\n".join(["x = 1"] * 50)


def test_short_modules_are_left_out():
    assert list(cut_pieces("", "a.py")) == []
    assert list(cut_pieces("# a comment alone\n", "a.py")) == []
    assert list(cut_pieces("x = 1\n" * (MIN_CHARACTERS // 6), "a.py")) == []
    assert len(list(cut_pieces("x = 1\n" * (MIN_CHARACTERS // 6 + 1), "a.py"))) == 1


@pytest.mark.parametrize("cut", [cut_pieces, compiled_statements])
def test_what_is_no_code_is_named(cut):
    with pytest.raises(UserError, match=r"lib/a\.py, line 2, is not code that this Python can parse"):
        list(cut("x = 1\nprint 'two'\n", "lib/a.py"))
    with pytest.raises(UserError, match=r"lib/a\.py.*is not code that this Python can parse"):
        list(cut("x = 1\0\n", "lib/a.py"))


def test_a_hidden_word_is_a_whole_one():
    assert hide_word("xml", "xml.dom, xmlrpc, 'xml', XML, xml_") == "_.dom, xmlrpc, '_', XML, xml_"
