"""Language of docstrings, comments, messages and Markdown: standard terms, no denied words.

`DENIED` lists each denied phrase with its replacement.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TEXTS = (
    ".github",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
    "docs",
    "jaxdp",
    "launch",
    "examples",
)
"""Files and folders whose text is checked, relative to the repository."""

DENIED = {
    r"mend(s|ed|ing)?": "fix",
    r"shall": "must, will",
    r"at hand": "available",
    r"so many": "the number",
    r"beside": "next to",
    r"held[- ]out": "validation",
    r"data sets?": "dataset",
    r"lies": "is",
    r"dealt": "assigned",
    r"of which": "a sentence of its own",
    r"drawn": "sampled, initialised",
    r"limbs?": "16-bit parts",
    r"tally": "control word",
    r"for a person": "readable, or nothing",
    r"such as it (is|was)": "nothing",
    r"Departs:": "Differs:",
    r"(is|are|was|were) told": "receives, is informed of",
    r"anew": "again",
    r"but for": "except for",
    r"must be (a |some )?texts?": "must be a string",
    r"a fault of jaxdp": "internal error",
    r"without a word": "silently",
    r"end of the line": "control server",
    r"a person": "a user, or nothing",
}
"""Denied phrase, as a regular expression of whole words in any case -> what to write instead."""

DENIED_NAMES = r"(most|least|fewest)(_\w+)?"
"""Identifiers to avoid: limits are called `max_*` and `min_*`."""

ALLOWED: dict[tuple[str, str], str] = {
    (
        "jaxdp/data/preparing/selection.py",
        r"held[- ]out",
    ): "part of the random key of the selection: another word selects other records",
}
"""(file, denied phrase) -> the technical reason why that file may use it."""

QUESTIONS = ("What", "How", "Which", "Where", "Whether", "When", "Who")

INHERITED = {
    "setup",  # flax.linen.Module
    "on_start",
    "request",
    "on_dispatch",
    "on_step",
    "wants_state",
    "on_state",
    "on_stop",  # jaxdp.trainer.Hook
    "batches",
    "data_state",
    "load_state",
    "shares",  # jaxdp.data.loader.DataLoader
}
"""Methods that are documented at their base class."""

DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def files_of(suffix):
    for name in TEXTS:
        path = ROOT / name
        assert path.exists(), f"TEXTS has {name}, which does not exist"
        yield from sorted(path.rglob(f"*{suffix}")) if path.is_dir() else [path] * path.name.endswith(suffix)


def texts(source):
    """Yields (line, text) of every string literal and every block of comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    block, first, last = [], 0, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if token.start[0] != last + 1:
            yield first, " ".join(block)
            block, first = [], token.start[0]
        block.append(token.string.lstrip("#"))
        last = token.start[0]
    yield first, " ".join(block)


def prose(markdown):
    """Yields (line, paragraph) of a Markdown page without its code."""
    page = re.sub(r"```.*?```", lambda code: "\n" * code[0].count("\n"), markdown, flags=re.DOTALL)
    line = 1
    for paragraph in page.split("\n\n"):
        yield line, re.sub(r"`[^`]*`", "", paragraph)
        line += paragraph.count("\n") + 2


def denied(parts):
    """Yields (line, denied phrase, replacement) of every denied phrase in (line, text) parts."""
    for line, text in parts:
        plain = " ".join(text.split())
        for phrase, instead in DENIED.items():
            if re.search(rf"(?<!\w){phrase}(?!\w)", plain, re.IGNORECASE):
                yield line, phrase, instead


def docstrings(source):
    """Yields (node, docstring) of a module, its classes and its functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DEFINITIONS) and ast.get_docstring(node):
            yield node, ast.get_docstring(node)


def is_property(node):
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def misopened(source):
    """Yields (line, first words) of docstrings that open with a question, or of functions, not with a verb or with the method that they implement."""
    for node, docstring in docstrings(source):
        first = docstring.split()[0]
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_property(node)
        is_verb = re.fullmatch(r"[A-Z][a-z-]*s,?", first) or docstring.startswith(("Args:", "See `"))
        if first.rstrip(",:") in QUESTIONS or (is_function and not is_verb):
            yield getattr(node, "lineno", 1), " ".join(docstring.split()[:5])


def undocumented(source):
    """Yields (line, name) of public functions, classes and methods without a docstring; nested functions are private."""
    tree = ast.parse(source)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for owner in (tree, *classes):
        for node in owner.body:
            is_public = isinstance(node, DEFINITIONS) and not node.name.startswith("_")
            if is_public and node.name not in INHERITED and not ast.get_docstring(node):
                yield node.lineno, node.name


def identifiers(source):
    for node in ast.walk(ast.parse(source)):
        for field in ("id", "arg", "attr", "name"):
            if isinstance(name := getattr(node, field, None), str):
                yield getattr(node, "lineno", 0), name


@pytest.fixture(params=list(files_of(".py")), ids=lambda path: str(path.relative_to(ROOT)))
def module(request):
    return str(request.param.relative_to(ROOT)), request.param.read_text()


def test_no_denied_words(module):
    name, source = module
    found = [each for each in denied(texts(source)) if (name, each[1]) not in ALLOWED]
    assert not found, f"{name}: (line, denied phrase, write instead)"


def test_docstrings_open_with_a_verb_or_a_noun(module):
    name, source = module
    assert not list(misopened(source)), (
        f"{name}: a function's docstring opens with a verb in the third person (Returns, Builds), the others with a noun"
    )


def test_limits_are_called_max_and_min(module):
    name, source = module
    assert not [each for each in identifiers(source) if re.fullmatch(DENIED_NAMES, each[1], re.IGNORECASE)], name


@pytest.mark.parametrize("path", list(files_of(".md")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_denied_words_in_pages(path):
    name = str(path.relative_to(ROOT))
    found = [each for each in denied(prose(path.read_text())) if (name, each[1]) not in ALLOWED]
    assert not found, f"{name}: (line, denied phrase, write instead)"


@pytest.mark.parametrize(
    "path",
    sorted([*(ROOT / "configs").glob("*.py"), *filter(Path.is_file, (ROOT / "launch").iterdir())]),
    ids=lambda path: path.name,
)
def test_no_denied_words_in_recipes_and_launchers(path):
    source = path.read_text()
    assert not list(denied(texts(source) if path.suffix == ".py" else enumerate(source.splitlines(), 1)))


def test_what_is_public_has_a_docstring(module):
    name, source = module
    assert not list(undocumented(source)), name


def test_docstrings_follow_the_google_convention():
    ignored = "D100,D102,D104,D105,D107,D203,D213"
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "--no-cache", "--output-format=concise"]
    rules = ["--select=D", f"--ignore={ignored}", '--config=lint.pydocstyle.convention="google"']
    paths = [str(path) for path in files_of(".py")]
    outcome = subprocess.run([*command, *rules, *paths], capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_every_exception_is_needed():
    for (name, phrase), reason in ALLOWED.items():
        text = (ROOT / name).read_text()
        parts = texts(text) if name.endswith(".py") else prose(text)
        assert reason and phrase in [found for _, found, _ in denied(parts)], (name, phrase)


BROKEN = '''
"""What a module holds."""


def f(most_rows):
    """The rows that are so
    many."""
    raise ValueError(f"{most_rows} must be a text")  # mend it beside
    # a comment that is
    # drawn out


class Hook:
    """A hook."""

    def on_step(self):
        pass

    def other(self):
        pass
'''


def test_violations_are_found():
    assert {phrase for _, phrase, _ in denied(texts(BROKEN))} == {
        r"so many",
        r"must be (a |some )?texts?",
        r"mend(s|ed|ing)?",
        r"beside",
        r"drawn",
    }
    assert [words for _, words in misopened(BROKEN)] == ["What a module holds.", "The rows that are so"]
    assert [name for _, name in identifiers(BROKEN) if re.fullmatch(DENIED_NAMES, name)] == ["most_rows"] * 2
    assert [name for _, name in undocumented(BROKEN)] == ["other"]
    page = "A page.\n\n```\nthey shall\n```\n\nWhat `lies` here\nshall stay.\n"
    assert list(denied(prose(page))) == [(7, "shall", "must, will")]
