"""Files as documents: the text sources, their split and their fingerprint."""

import glob
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxdp.errors import UserError

STDLIB_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Document:
    """A text that is one whole, and the name of where it is from.

    `origin` is relative to what `data.path` names, with `/`, so that the same
    data has the same names wherever it lies.
    """

    text: str
    origin: str


def read_documents(source: str, path: str | None, errors: str) -> list[Document]:
    """All documents of a source, in an order that depends on names only.

    Args:
        source: `stdlib`: the `.py` files of the running Python's standard library,
            without tests; `path` is not used. `text`: one document a file.
        path: a file; a folder: all its regular files at any depth, whatever their
            names, but nothing hidden and no linked folder; or a glob, where `**`
            stands for folders at any depth. A leading `~` is the home folder.
        errors: what to do about bytes that are not UTF-8: `strict` raises,
            `replace` reads them as U+FFFD.

    Returns:
        Documents sorted by relative path; of several files the empty ones are
        left out.

    Raises:
        UserError: an unknown source, nothing there, nothing readable, no text.
    """
    if source not in SOURCES:
        raise UserError(f"data.source={source!r} is unknown: expected stdlib, text or tokens.")
    if errors not in ("strict", "replace"):
        raise UserError(f"data.errors={errors!r} is unknown: expected strict or replace.")
    return SOURCES[source](path, errors)


def _read_stdlib(path: str | None, errors: str) -> list[Document]:
    root = sysconfig.get_path("stdlib")
    names = [
        name
        for name in _walk(root, lambda folder: folder in STDLIB_LEFT_OUT)
        if name.endswith(".py")
    ]
    if not names:
        raise UserError(
            f"data.source=stdlib found no .py files in {root}: this Python comes without the source "
            "of its standard library; use data.source=text with data.path=FILE."
        )
    return _read_files(root, names, errors)


def _read_text(path: str | None, errors: str) -> list[Document]:
    if not path:
        raise UserError("data.source=text needs data.path: a file, a folder or a glob.")
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        root, names = path, _walk(path, lambda folder: folder.startswith("."))
        names = [name for name in names if not name.rpartition("/")[2].startswith(".")]
    elif glob.has_magic(path) and not os.path.exists(path):
        root, names = _match(path)
    else:
        root, name = os.path.split(path)
        names = [name]
    if not names:
        raise UserError(f"data.path={path} matches no file: expected a file, a folder or a glob.")
    return _read_files(root, names, errors)


SOURCES: dict[str, Callable[[str | None, str], list[Document]]] = {
    "stdlib": _read_stdlib,
    "text": _read_text,
}


def _walk(root: str, left_out: Callable[[str], bool]) -> list[str]:
    """Regular files below a folder, as relative paths with `/`."""

    def stop(error: OSError):
        raise unreadable(error)

    names = []
    for folder, subfolders, files in os.walk(root, onerror=stop):
        subfolders[:] = [name for name in subfolders if not left_out(name)]
        paths = (os.path.join(folder, name) for name in files)
        names += [Path(path).relative_to(root).as_posix() for path in paths if os.path.isfile(path)]
    return names


def _match(pattern: str) -> tuple[str, list[str]]:
    """The fixed folder in front of a glob, and what matches it below that folder."""
    parts = Path(pattern).parts
    num_fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    root = str(Path(*parts[:num_fixed]))
    paths = [path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)]
    return root, [Path(path).relative_to(root).as_posix() for path in paths]


def _read_files(root: str, names: Iterable[str], errors: str) -> list[Document]:
    documents = []
    for name in sorted(names):
        path = os.path.join(root, name)
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise unreadable(error) from error
        if content:
            documents.append(Document(_decode(content, path, errors), name))
    if not documents:
        raise UserError(f"data.path: {path} is empty, and no other file has text.")
    return documents


def _decode(content: bytes, path: str, errors: str) -> str:
    try:
        return content.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: byte 0x{content[error.start]:02x} at offset {error.start}; "
            "set data.errors=replace to read such bytes as U+FFFD, or leave the file out with a "
            "glob in data.path."
        ) from error


def unreadable(error: OSError) -> UserError:
    """The sentence for a file or folder of `data.path` that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        message = f"data.path: {error.filename} does not exist: give a file or folder that does."
        if os.path.basename(error.filename) == "tinyshakespeare.txt":
            message += (
                " The text is public: data/tinyshakespeare/input.txt in the repository"
                " karpathy/char-rnn; --config.data.path=FILE says where yours lies."
            )
        return UserError(message)
    return UserError(
        f"data.path: {error.filename} cannot be read ({error.strerror}): "
        "give this user the right to read it, or change data.path."
    )


def split_point(num_items: int, eval_fraction: float) -> int:
    """How many of some items come before the last `eval_fraction` of them.

    Raises:
        UserError: a fraction not between 0 and 1, or nothing left on one side.
    """
    if not 0 < eval_fraction < 1:
        raise UserError(
            f"data.eval_fraction={eval_fraction} is out of range: expected more than 0, less than 1."
        )
    point = int(num_items * (1 - eval_fraction))
    if not 0 < point < num_items:
        raise UserError(
            f"data.eval_fraction={eval_fraction} of {num_items} characters or tokens leaves nothing "
            "to train on or to evaluate on: give more data or change data.eval_fraction."
        )
    return point


def split_documents(
    documents: list[Document], eval_fraction: float
) -> tuple[list[Document], list[Document]]:
    """Training and evaluation documents: the last part is held out.

    One document is cut at a character. Several are split between two of them,
    where the characters before come nearest to the training part; at least one
    document falls on each side.

    Raises:
        UserError: see `split_point`.
    """
    if len(documents) == 1:
        text, origin = documents[0].text, documents[0].origin
        point = split_point(len(text), eval_fraction)
        return [Document(text[:point], origin)], [Document(text[point:], origin)]
    ends = np.cumsum([len(document.text) for document in documents])
    point = split_point(int(ends[-1]), eval_fraction)
    num_train = int(np.argmin(np.abs(ends[:-1] - point))) + 1
    return documents[:num_train], documents[num_train:]


def fingerprint(documents: Iterable[Document]) -> str:
    """SHA-256 of all names and contents in order, in hexadecimal.

    A run records it, so that it is not resumed on other data.
    """
    digest = hashlib.sha256()
    for document in documents:
        for text in (document.origin, document.text):
            content = text.encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
