"""Steps of `data.cleaning`: their syntax and their effect on a text."""

import functools
import hashlib
import platform
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from jaxdp.data.cleaning.html_text import html_text
from jaxdp.data.reading.file_content import read_blocks
from jaxdp.data.reading.files import find_files
from jaxdp.errors import UserError
from jaxdp.quoting import quoted

Texts = tuple[str, ...]
"""Text columns of one record, in order."""

FORMS = ("NFC", "NFD", "NFKC", "NFKD")

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")
BLANKS = re.compile(r"(?: [^\S\n]+|[^\S\n ][^\S\n]*)")  # every run of blanks except a single space
NEWLINES = re.compile(r"\n{3,}")
WORD = re.compile(r"\w+(?:['\u2019]\w+)*")

# Source: RFC 3986, appendix A, for the characters. The last one is not punctuation,
# which in prose belongs to the sentence and not to the address.
URL = re.compile(
    r"(?:\b(?:https?|ftp)://|\bwww\.)"
    r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*[A-Za-z0-9\-_~/#@$&*+=%]",
    re.IGNORECASE,
)


def _drop_control(text: str) -> str:
    """Removes control characters (Unicode category Cc) except newline and tab."""
    return CONTROL.sub("", text)


def _squeeze_whitespace(text: str) -> str:
    """Collapses runs of blanks into one space and blank lines into one; removes blanks at line ends."""
    text = BLANKS.sub(" ", text).replace(" \n", "\n").removesuffix(" ")
    return NEWLINES.sub("\n\n", text)


def _drop_urls(text: str) -> str:
    return URL.sub("", text)


def _drop_words(words: frozenset[str], text: str) -> str:
    """Removes these words in any case; the blanks around them stay."""

    def kept(match: re.Match) -> str:
        return "" if _folded(match[0]) in words else match[0]

    return WORD.sub(kept, text)


def _folded(word: str) -> str:
    return word.replace("\u2019", "'").casefold()


class Action(Protocol):
    """Effect of a step on the texts of the records, in order."""

    def __call__(self, texts: Texts, document: int) -> Texts | None:
        """Returns the texts afterwards, None to drop them; pieces of one document have the same number."""


@dataclass(frozen=True)
class Change:
    """Action that applies a function to each text; the function can be pickled by name."""

    function: Callable[[str], str]

    def __call__(self, texts: Texts, document: int) -> Texts | None:
        """Applies the function to each text."""
        return tuple(map(self.function, texts))


class Limit:
    """Action that keeps a record if every text has `min_chars` to `max_chars` characters."""

    def __init__(self, min_chars: int = 0, max_chars: float = float("inf")):
        self._min_chars, self._max_chars = min_chars, max_chars
        self._document = -1
        self._kept = False

    def __call__(self, texts: Texts, document: int) -> Texts | None:
        """Keeps or drops a document by its first piece."""
        if document != self._document:
            self._document = document
            self._kept = all(self._min_chars <= len(text) <= self._max_chars for text in texts)
        return texts if self._kept else None


class Deduplicate:
    """Action that keeps the first of all records with identical texts.

    A record is stored as a BLAKE2b digest of 16 bytes, which takes about 120 bytes of memory: 1.2 GB for ten million
    records. The probability that two of 10^9 different records share a digest is 10^-21.
    """

    def __init__(self):
        self._seen: set[bytes] = set()
        self._document = -1

    def __call__(self, texts: Texts, document: int) -> Texts | None:
        """Drops texts that an earlier record had."""
        if document != self._document:
            self._document = document
            self._digest = hashlib.blake2b(digest_size=16)
        for text in texts:
            content = text.encode("utf-8", "surrogatepass")
            self._digest.update(len(content).to_bytes(8, "little"))
            self._digest.update(content)
        digest = self._digest.digest()
        if digest in self._seen:
            return None
        self._seen.add(digest)
        return texts


@dataclass(frozen=True)
class Step:
    """Entry of `data.cleaning`.

    Attributes:
        name: Entry as configured.
        identity: String that the result depends on, with the content of a file instead of its name.
        action: Effect of the step.
    """

    name: str
    identity: str
    action: Action


def make_step(name: str) -> Step:
    """Parses an entry of `data.cleaning`: `STEP` or `STEP:ARGUMENT`.

    Raises:
        UserError: The step is unknown, or its argument is invalid.
    """
    kind, colon, argument = name.partition(":")
    for usage, make in STEPS.items():
        if usage.partition(":")[0] == kind:
            if bool(colon) != (":" in usage):
                raise _wrong_step(name, f"is written {usage}")
            return make(name, argument)
    raise _wrong_step(name, "is not known")


def _wrong_step(name: str, reason: str) -> UserError:
    return UserError(f"data.cleaning: step {name!r} {reason}; expected steps out of {', '.join(STEPS)}.")


def _changing(function: Callable[[str], str], made_by: str = "") -> Callable[[str, str], Step]:
    """Builds a step without argument; `made_by` is the version of what its result depends on."""
    return lambda name, argument: Step(name, name + made_by, Change(function))


def _unicode_step(name: str, form: str) -> Step:
    if form not in FORMS:
        raise _wrong_step(name, f"has form {form!r}, expected {'|'.join(FORMS)}")
    return Step(name, name + BY_UNICODE, Change(functools.partial(unicodedata.normalize, form)))


def _stopwords_step(name: str, argument: str) -> Step:
    if argument.startswith("\n"):
        words = frozenset(argument[1:].split("\n")) - {""}
        name = f"stopwords ({len(words)} words)"
    else:
        words = read_words(name)
    digest = hashlib.sha256("\n".join(sorted(words)).encode()).hexdigest()
    return Step(name, f"stopwords:{digest}", Change(functools.partial(_drop_words, words)))


def is_list_step(name: str) -> bool:
    """Tells word lists in files, `stopwords:FILE`, from other steps."""
    return name.startswith("stopwords:") and not name.startswith("stopwords:\n")


def listed_step(words: Iterable[str]) -> str:
    """Returns the step that has the effect of `stopwords:FILE` for these words."""
    return "stopwords:\n" + "\n".join(words)


def read_words(step: str) -> frozenset[str]:
    """Reads the words of the file that `stopwords:FILE` names: one word a line, case-folded, without blank lines.

    Raises:
        UserError: The file cannot be read, or a line is not a word.
    """
    words = set()
    for file in find_files(step.partition(":")[2], (), "data.cleaning"):
        content = b"".join(read_blocks(file))
        try:
            lines = content.decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"data.cleaning: {file.path} is not UTF-8 text: byte 0x{content[error.start]:02x} at "
                f"offset {error.start}; save it as UTF-8."
            ) from error
        for number, line in enumerate(lines, 1):
            word = line.strip()
            if word and not WORD.fullmatch(word):
                raise UserError(
                    f"data.cleaning: {file.path}, line {number} is {quoted(word)}, expected one word a line: "
                    "letters and digits, optionally with an apostrophe between them."
                )
            words.add(_folded(word))
    return frozenset(words - {""})


def _min_chars_step(name: str, argument: str) -> Step:
    return Step(name, name, Limit(min_chars=_number(name, argument)))


def _max_chars_step(name: str, argument: str) -> Step:
    return Step(name, name, Limit(max_chars=_number(name, argument)))


def _number(name: str, argument: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", argument):
        raise _wrong_step(name, f"has {argument!r}, expected an integer")
    return int(argument)


def _deduplicate_step(name: str, argument: str) -> Step:
    return Step(name, name, Deduplicate())


BY_UNICODE = f" by Unicode {unicodedata.unidata_version}"
BY_PYTHON = f" by Python {platform.python_version()}"

STEPS: dict[str, Callable[[str, str], Step]] = {
    "unicode:NFC|NFD|NFKC|NFKD": _unicode_step,
    "control": _changing(_drop_control),
    "whitespace": _changing(_squeeze_whitespace),
    "lowercase": _changing(str.lower, BY_UNICODE),
    "html": _changing(html_text, BY_PYTHON),
    "urls": _changing(_drop_urls),
    "stopwords:FILE": _stopwords_step,
    "min_chars:N": _min_chars_step,
    "max_chars:N": _max_chars_step,
    "deduplicate": _deduplicate_step,
}
"""Syntax of a step -> function (entry, argument) -> step."""
