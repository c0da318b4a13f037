"""Text files are UTF-8 wherever jaxdp runs: no call leaves the encoding to the locale."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "jaxdp"

TEXT_METHODS = {"read_text", "write_text", "FileHandler", "TextIOWrapper"}
OPENING = {"open": 1, "fdopen": 1, "NamedTemporaryFile": 0, "TemporaryFile": 0, "SpooledTemporaryFile": 1}
"""Functions that open a file, and which positional argument is the mode."""

BINARY_BY_DEFAULT = {"NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile"}
PROCESSES = {"run", "Popen", "check_output", "check_call", "call"}


def leaves_encoding_open(call):
    """Whether a call reads or writes text in the encoding of the locale."""
    is_method = isinstance(call.func, ast.Attribute)
    name = call.func.attr if is_method else getattr(call.func, "id", "")
    owner = (getattr(call.func.value, "id", "") or getattr(call.func.value, "attr", "")) if is_method else ""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if name in TEXT_METHODS:
        return is_method  # a plain function of this name is our own
    if name in PROCESSES:
        return owner == "subprocess" and bool({"text", "universal_newlines"} & keywords.keys())
    if name in OPENING and owner not in ("os", "filesystem", "gzip", "lzma", "ts", "Image"):
        place = OPENING[name] - (is_method and owner not in ("tempfile", "io", "os"))  # Path.open begins with the mode
        mode = keywords.get("mode", call.args[place] if len(call.args) > place else None)
        if mode is None:
            return name not in BINARY_BY_DEFAULT
        return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))
    return False


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_text_file_is_utf_8(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    open_calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and leaves_encoding_open(node)]
    assert not open_calls, [f"line {call.lineno}: {ast.unparse(call)}" for call in open_calls]


@pytest.mark.parametrize(
    ("code", "is_open"),
    [
        ("path.read_text()", True),
        ("path.write_text(text)", True),
        ("path.read_text(encoding='utf-8')", False),
        ("read_text(file, columns)", False),
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("open(path, mode='a+')", True),
        ("open(path, 'rb')", False),
        ("path.open('w')", True),
        ("path.open('rb')", False),
        ("self.path.open()", True),
        ("file.filesystem.open(path, 'rb')", False),
        ("os.open(path, flags)", False),
        ("Image.open(picture)", False),
        ("logging.FileHandler(path)", True),
        ("tempfile.TemporaryFile()", False),
        ("tempfile.NamedTemporaryFile('w')", True),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command)", False),
        ("module.run(options, text=1)", False),
    ],
)
def test_what_counts(code, is_open):
    assert leaves_encoding_open(ast.parse(code).body[0].value) == is_open
