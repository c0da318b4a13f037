"""Standard library of the running Python as a dataset (`data.source=stdlib`): whole files, labelled pieces, or pairs."""

import hashlib
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from jaxdp.data.demo_corpora.bytecode import compiled_statements
from jaxdp.data.demo_corpora.python_code import cut_pieces, hide_word
from jaxdp.data.reading.files import DataFile, find_below
from jaxdp.data.reading.readers import read_text
from jaxdp.data.reading.records import Columns, Part, Record
from jaxdp.data.reading.source_spec import SourceSpec
from jaxdp.errors import UserError

SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}

PACKAGES = ("asyncio", "email", "idlelib", "importlib", "multiprocessing", "tkinter", "unittest", "xml")
"""Labels: packages with at least ten files and 200 kB of code in Python 3.11, 3.12 and 3.13.

`encodings` is as large but consists of tables; later versions have no `distutils` and `lib2to3`.
"""


def open_stdlib(spec: SourceSpec, columns: Columns) -> tuple[list[Part], None]:
    """Opens the library as one part per file, in the first view that has the columns.

    - text: the files as they are, in the order of their names.
    - text and label: pieces of the files of `PACKAGES`. The label is the package; its name is `_` in the piece.
    - source and target: the bytecode of single lines, and the lines.

    The last two views order their files so that the end of the list has files of every package, see
    `interleave_packages`. The validation split is then like the training split, but of other files.

    Returns:
        (parts, None): the source has no validation split of its own.

    Raises:
        UserError: No view has the columns, or the library comes without source files.
    """
    view = _view(columns)
    root = sysconfig.get_path("stdlib")
    files = find_below(root, lambda name: name.endswith(".py"), lambda folder: folder not in SKIPPED_FOLDERS)
    if not files:
        raise UserError(
            f"data.source=stdlib found no .py files in {root}: this Python comes without the source "
            "of its standard library; use data.source=text with data.path=FILE."
        )
    files = view.choose(sorted((file for file in files if file.num_bytes), key=lambda file: file.name))
    return [
        Part(file.name, file.num_bytes or 0, file.stamp, partial(view.read, file, columns, spec.errors))
        for file in files
    ], None


def _view(columns: Columns) -> "_View":
    """Returns the first view that has all columns."""
    for view in VIEWS:
        if set(columns.names) <= set(view.columns):
            return view
    raise UserError(
        f"data.source=stdlib has no records with {' and '.join(columns.names)}: expected "
        f"{', or '.join(' and '.join(view.columns) for view in VIEWS)}; choose another data.source."
    )


def _all_files(files: list[DataFile]) -> list[DataFile]:
    return files


def _labelled_files(files: list[DataFile]) -> list[DataFile]:
    return interleave_packages([file for file in files if package_of(file) in PACKAGES])


def _distinct_files(files: list[DataFile]) -> list[DataFile]:
    # The modules of `encodings` are near-copies of one another, which would be in both splits.
    return interleave_packages([file for file in files if package_of(file) != "encodings"])


def package_of(file: DataFile) -> str:
    """Returns the top-level folder of a file; empty for a module at the top of the library."""
    package, slash, _ = file.name.partition("/")
    return package if slash else ""


def interleave_packages(files: Sequence[DataFile]) -> list[DataFile]:
    """Orders files so that the end of the list has about the same share of every package.

    Within a package the largest file comes first, so that it is never the whole validation split; the others follow
    by a hash of their names. All packages are then stretched to the same length and merged.
    """
    packages: dict[str, list[DataFile]] = {}
    for file in files:
        packages.setdefault(package_of(file), []).append(file)
    positions = {}
    for members in packages.values():
        largest = max(members, key=lambda file: (file.num_bytes, file.name))
        members.sort(key=lambda file: (file is not largest, hashlib.sha256(file.name.encode()).digest()))
        total, end = sum(file.num_bytes or 0 for file in members), 0
        for file in members:
            end += file.num_bytes or 0
            positions[file.name] = end / total
    return sorted(files, key=lambda file: (positions[file.name], file.name))


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
    """Reads the whole text of a file, with a newline at the end of each line."""
    text = "".join(record.fields["text"] for record in read_text(file, Columns(("text",)), errors))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _record(file: DataFile, line: int, fields: Mapping[str, str], columns: Columns) -> Record:
    return Record({column: fields[column] for column in columns.names}, f"{file.name}, line {line}")


@dataclass(frozen=True)
class _View:
    """View of the library as records.

    Attributes:
        columns: Columns of its records.
        choose: Function from all files, sorted by name, to those that are read, in order.
        read: Reader, (file, columns, errors) -> records.
    """

    columns: tuple[str, ...]
    choose: Callable[[list[DataFile]], list[DataFile]]
    read: Callable[[DataFile, Columns, str], Iterator[Record]]


VIEWS = (
    _View(("text",), _all_files, read_text),
    _View(("text", "label"), _labelled_files, _read_pieces),
    _View(("source", "target"), _distinct_files, _read_statements),
)
