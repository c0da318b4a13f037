"""Ownership of an exception: whether it was raised in or below a user's task, hook or configuration file."""

import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_NOT_THE_USERS = tuple(
    f"{directory}{os.sep}"
    for directory in (Path(__file__).parent, *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")))
)
"""Directories of jaxdp, Python and installed packages."""

_LIBRARY_DIRECTORIES = {"site-packages", "dist-packages"}
_REMOTE_FRAME = re.compile(r'^  File "(.+)", line (\d+), in (.+)$', re.MULTILINE)


MAX_CHARACTERS = 300
"""Largest part of an exception's message in the final sentence of a command; the traceback above it has all."""


class Place(NamedTuple):
    """Line of code in a traceback."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}" + (f" ({self.function})" if self.function.isidentifier() else "")


def user_place(error: BaseException) -> Place | None:
    """Returns the innermost line of an exception's traceback outside jaxdp and installed packages, or None.

    Exceptions of worker processes are read from the text of their traceback.
    """
    for link in _chain(error):
        frames = [
            Place(frame.filename, frame.lineno or 0, frame.name) for frame in traceback.extract_tb(link.__traceback__)
        ]
        if isinstance(link, SyntaxError) and link.filename:
            frames.append(Place(link.filename, link.lineno or 0, ""))
        if type(link).__name__ == "_RemoteTraceback":  # of concurrent.futures, which has no public name for it
            frames += [Place(file, int(line), name) for file, line, name in _REMOTE_FRAME.findall(str(link))]
        if places := [place for place in frames if is_users(place.file)]:
            return places[-1]
    return None


def user_traceback(error: BaseException) -> str:
    """Formats an exception without the frames before the first line of a user's code."""
    kept = error.__traceback__
    while kept is not None and not is_users(kept.tb_frame.f_code.co_filename):
        kept = kept.tb_next
    return "".join(traceback.format_exception(type(error), error, kept))


def user_fault(error: BaseException, place: Place) -> str:
    """Describes an exception of a user's code and where it was raised, without a period.

    Args:
        error: The exception.
        place: See `user_place`.
    """
    what = f"{type(error).__name__}: {_first_sentences(str(error))}".removesuffix(": ")
    return f"{what}; raised by {place}, which is your code and not a part of jaxdp"


def _first_sentences(text: str) -> str:
    """Returns the first sentences of a message in one line, as many as `MAX_CHARACTERS` hold and at least one.

    A line ends a sentence, as in the messages of JAX about tracers. A first sentence that is longer is cut at a word.
    """
    sentences = [" ".join(part.split()) for part in re.split(r"(?<=[.!?])\s+|\n+", text.strip())]
    kept = ""
    for sentence in filter(None, sentences):
        longer = f"{kept} {sentence}".strip()
        if kept and len(longer) > MAX_CHARACTERS:
            break
        kept = longer
    if len(kept) <= MAX_CHARACTERS:
        return kept.rstrip(".")
    return f"{kept[:MAX_CHARACTERS].rpartition(' ')[0] or kept[:MAX_CHARACTERS]} ..."


def user_sentence(error: BaseException, place: Place) -> str:
    """States where a user's code raised an exception whose traceback has been printed; see `user_fault`."""
    return f"{user_fault(error, place)}: its traceback is above."


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception and those that caused it."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def is_users(file: str) -> bool:
    """Returns True for a file that is neither of jaxdp nor of Python or an installed package."""
    if not file or file.startswith("<"):
        return False
    if file.startswith(_NOT_THE_USERS):
        return False
    return not _LIBRARY_DIRECTORIES.intersection(Path(file).parts)
