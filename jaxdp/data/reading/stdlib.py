"""`data.source=stdlib`: the running Python's standard library, as whole files or as labelled or paired examples."""

import hashlib
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from jaxdp.data.reading.bytecode import compiled_statements
from jaxdp.data.reading.files import DataFile, find_below
from jaxdp.data.reading.python_code import cut_pieces, hide_word
from jaxdp.data.reading.readers import read_text
from jaxdp.data.reading.records import Columns, Part, Record
from jaxdp.errors import UserError

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}

PACKAGES = ("asyncio", "email", "idlelib", "importlib", "multiprocessing", "tkinter", "unittest", "xml")
"""The labels: packages of at least ten files and 200 kB of code in Python 3.11, 3.12 and 3.13.

`encodings` has that too, but consists of tables; `distutils` and `lib2to3` are gone since.
"""


def open_stdlib(columns: Columns, errors: str) -> list[Part]:
    """A part for each file, of what has the columns that are asked for.

    - text: the files as they are, in the order of their names.
    - text and label: pieces of the files of `PACKAGES`, and the package that each is from,
      whose name is `_` in them.
    - source and target: what single lines are compiled to, and the lines.

    Files of the last two are in an order whose last part has files of every package
    (see `dealt`): what is held out is like what is trained on, but of other files.

    Raises:
        UserError: no such columns, or no files.
    """
    view = _view(columns)
    root = sysconfig.get_path("stdlib")
    files = find_below(root, lambda name: name.endswith(".py"), lambda folder: folder not in LEFT_OUT)
    if not files:
        raise UserError(
            f"data.source=stdlib found no .py files in {root}: this Python comes without the source "
            "of its standard library; use data.source=text with data.path=FILE."
        )
    files = view.choose(sorted((file for file in files if file.num_bytes), key=lambda file: file.name))
    return [Part(file.name, file.num_bytes, file.stamp, partial(view.read, file, columns, errors)) for file in files]


def _view(columns: Columns) -> "_View":
    """The first view that has all the columns."""
    for view in VIEWS:
        if set(columns.names) <= set(view.columns):
            return view
    raise UserError(
        f"data.source=stdlib has no records with {' and '.join(columns.names)}: expected "
        f"{', or '.join(' and '.join(view.columns) for view in VIEWS)}; choose another data.source."
    )


def _as_they_are(files: list[DataFile]) -> list[DataFile]:
    return files


def _of_packages(files: list[DataFile]) -> list[DataFile]:
    return dealt([file for file in files if package_of(file) in PACKAGES])


def _of_own_code(files: list[DataFile]) -> list[DataFile]:
    # Its hundred modules are copies of one, which would be in both splits.
    return dealt([file for file in files if package_of(file) != "encodings"])


def package_of(file: DataFile) -> str:
    """The folder at the top of the library that a file lies in; empty: a module of its own."""
    package, slash, _ = file.name.partition("/")
    return package if slash else ""


def dealt(files: Sequence[DataFile]) -> list[DataFile]:
    """The files in an order whose last part has about the same share of every package.

    Within a package the largest file comes first, lest it be all that is held out; the
    others follow by a hash of their names. Packages are then laid side by side, each
    stretched to the same length.
    """
    packages: dict[str, list[DataFile]] = {}
    for file in files:
        packages.setdefault(package_of(file), []).append(file)
    places = {}
    for members in packages.values():
        largest = max(members, key=lambda file: (file.num_bytes, file.name))
        members.sort(key=lambda file: (file is not largest, hashlib.sha256(file.name.encode()).digest()))
        total, end = sum(file.num_bytes for file in members), 0
        for file in members:
            end += file.num_bytes
            places[file.name] = end / total
    return sorted(files, key=lambda file: (places[file.name], file.name))


def _read_pieces(file: DataFile, columns: Columns, errors: str) -> Iterator[Record]:
    package = package_of(file)
    for piece in cut_pieces(_code(file, errors), file.path):
        fields = {"text": hide_word(package, piece.text), "label": package}
        yield _record(file, piece.line, fields, columns)


def _read_statements(file: DataFile, columns: Columns, errors: str) -> Iterator[Record]:
    for statement in compiled_statements(_code(file, errors), file.path):
        fields = {"source": statement.instructions, "target": statement.code}
        yield _record(file, statement.line, fields, columns)


def _code(file: DataFile, errors: str) -> str:
    """The whole text of a file, with the ends of lines that Python sees."""
    text = "".join(record.fields["text"] for record in read_text(file, Columns(("text",)), errors))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _record(file: DataFile, line: int, fields: Mapping[str, str], columns: Columns) -> Record:
    return Record({column: fields[column] for column in columns.names}, f"{file.name}, line {line}")


@dataclass(frozen=True)
class _View:
    """What the library is read as.

    Attributes:
        columns: of its records.
        choose: files by name -> those that are read, in their order.
        read: file, columns, errors -> records.
    """

    columns: tuple[str, ...]
    choose: Callable[[list[DataFile]], list[DataFile]]
    read: Callable[[DataFile, Columns, str], Iterator[Record]]


VIEWS = (
    _View(("text",), _as_they_are, read_text),
    _View(("text", "label"), _of_packages, _read_pieces),
    _View(("source", "target"), _of_own_code, _read_statements),
)
