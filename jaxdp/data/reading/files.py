"""Files of `data.path`: a file, folder, glob or URL.

Local files are listed and opened by Python itself; URLs (`s3://`, `https://`, `hf://`, `memory://`) by `fsspec`, which
supports some protocols and needs a package for others. Local files do not go through `fsspec`, since it rounds times,
which are part of the cache keys, omits unreadable folders silently, and takes 0.09 s of processor time to import.
"""

import glob
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxdp.errors import UserError
from jaxdp.paths import check_not_empty
from jaxdp.quoting import quoted_names
from jaxdp.redact import is_masked

COMPRESSIONS = {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}


@dataclass(frozen=True)
class DataFile:
    """File that exists, not opened yet.

    Attributes:
        path: Path or URL, for messages and for opening.
        name: Path relative to `data.path`, with `/`.
        num_bytes: Size as stored; None if unknown.
        stamp: String that changes when the content does.
        key: Configuration key that names the file, for messages.
        filesystem: File system of `fsspec`; None: local.
        encoding: Text encoding; None: UTF-8.
        delimiter: Character between the fields of a table; None: by the ending of the name.
        remarks: Sentences about files next to it that were left out.
    """

    path: str
    name: str
    num_bytes: int | None
    stamp: str = ""
    key: str = "data.path"
    filesystem: Any = None
    encoding: str | None = None
    delimiter: str | None = None
    remarks: tuple[str, ...] = ()

    @property
    def compression(self) -> str | None:
        """Compression by the last ending of the name: gzip, xz, zstd or None."""
        return COMPRESSIONS.get(os.path.splitext(self.name)[1])

    @property
    def kind(self) -> str:
        """Ending of the name in lower case, without that of a compression: `.jsonl`."""
        stem, ending = os.path.splitext(self.name)
        return (os.path.splitext(stem)[1] if ending in COMPRESSIONS else ending).lower()


def find_files(
    path: str, endings: tuple[str, ...], key: str = "data.path", *, keep_empty: bool = False
) -> list[DataFile]:
    """Finds the files of a path, sorted by relative name.

    Args:
        path: A file; a folder: its regular files at any depth with one of the endings, without hidden ones and linked
            folders; or a glob, where `**` matches folders at any depth. A leading `~` is the home folder; a path with a
            protocol is a URL.
        endings: `(".csv", ".tsv")`, each also with that of a compression; empty: all names. They do not restrict a single
            file or a glob.
        key: Configuration key of the path, for messages.
        keep_empty: Keeps empty files among others, where their positions count.

    Returns:
        One or more files; empty ones among several are left out unless they are kept.

    Raises:
        UserError: The path is empty, does not exist, cannot be read or matches nothing, or no file has content.
    """
    check_not_empty(path, key)
    if is_masked(path):
        raise UserError(
            f"{key}={path} is kept without its password or token: give the complete URL again, as in --config.{key}=URL."
        )
    find = _find_remote if "://" in path else _find_local
    files, in_folder = find(os.path.expanduser(path), key)
    if in_folder and endings:
        files = [file for file in files if file.kind in endings]
    if not files and in_folder and endings:
        raise UserError(
            f"{key}: the folder {path} has no file that ends in {', '.join(endings)} (or in one of "
            f"these with {', '.join(COMPRESSIONS)}): name another folder, or the files by a glob, which enters linked "
            "folders too."
        )
    if not files:
        raise UserError(f"{key}={path} matches no file: expected a file, a folder or a glob.")
    with_content = [file for file in files if file.num_bytes != 0]
    if not with_content:
        raise UserError(f"{key}: {files[-1].path} is empty, and no other file has text.")
    return sorted(files if keep_empty else with_content, key=lambda file: file.name)


def find_below(
    root: str, keep: Callable[[str], bool], enter: Callable[[str], bool], key: str = "data.path"
) -> list[DataFile]:
    """Finds regular files at any depth below a local folder; linked folders are not entered, but named in the remarks.

    Args:
        root: Folder.
        keep: Predicate of file names.
        enter: Predicate of folder names.
        key: See `find_files`.
    """

    def stop(error: OSError):
        raise unreadable(error, key=key)

    paths, links = [], []
    for folder, subfolders, names in os.walk(root, onerror=stop):
        subfolders[:] = [name for name in subfolders if enter(name)]
        links += [path for name in subfolders if os.path.islink(path := os.path.join(folder, name))]
        paths += [os.path.join(folder, name) for name in names if keep(name)]
    remarks = (_left_out(root, links, key),) if links else ()
    return [_local_file(path, root, key, remarks) for path in paths if os.path.isfile(path)]


def _left_out(root: str, links: list[str], key: str) -> str:
    names = quoted_names(sorted(os.path.relpath(path, root) for path in links))
    return f"{key}: linked folders in {root} are not read: {names}; a glob such as {os.path.join(root, '**', '*.txt')} reads them too"


def _is_visible(name: str) -> bool:
    return not name.startswith(".")


def _local_file(path: str, root: str, key: str, remarks: tuple[str, ...] = ()) -> DataFile:
    try:
        status = os.stat(path)
    except OSError as error:
        raise unreadable(error, path, key) from error
    # A copy may keep the modification time of its original, but not the change time.
    stamp = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return DataFile(path, Path(path).relative_to(root).as_posix(), status.st_size, stamp, key, remarks=remarks)


def _find_local(path: str, key: str) -> tuple[list[DataFile], bool]:
    """Returns (files, True if the path is a folder)."""
    if os.path.isdir(path):
        return find_below(path, _is_visible, _is_visible, key), True
    if glob.has_magic(path) and not os.path.exists(path):
        parts = Path(path).parts
        # The name of an existing file or folder may contain brackets or stars, which are then not a pattern.
        num_fixed = next(
            (i for i, part in enumerate(parts) if glob.has_magic(part) and not os.path.exists(Path(*parts[: i + 1]))),
            len(parts),
        )
        root = str(Path(*parts[:num_fixed]))
        pattern = os.path.join(glob.escape(root) if num_fixed else "", *parts[num_fixed:])
        matches = glob.glob(pattern, recursive=True)
        return [_local_file(match, root, key) for match in matches if os.path.isfile(match)], False
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{key}: {path} is no regular file: data is read more than once, so save it to one.")
    return [_local_file(path, os.path.dirname(path), key)], False


def _find_remote(url: str, key: str) -> tuple[list[DataFile], bool]:
    """Returns (files, True if the URL is a folder)."""
    import fsspec

    try:
        filesystem, path = fsspec.url_to_fs(url)
        # Files are checked first: over HTTP, the check for a folder downloads the page.
        if filesystem.isfile(path):
            found, root, in_folder = {path: filesystem.info(path)}, os.path.dirname(path), False
        elif filesystem.isdir(path):
            found, root, in_folder = filesystem.find(path, detail=True), path, True
        elif glob.has_magic(path):
            parts = path.split("/")
            num_fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
            found, root, in_folder = filesystem.glob(path, detail=True), "/".join(parts[:num_fixed]), False
        else:
            filesystem.info(path)  # raises the specific error
            raise FileNotFoundError(url)
        found = {path: info for path, info in found.items() if info["type"] == "file"}
        for path, info in found.items():
            if info.get("size") is None:  # a listing over HTTP has names only
                found[path] = filesystem.info(path)
    except Exception as error:  # each file system has its own errors
        if isinstance(error, FileNotFoundError) and error.__cause__ is None:
            raise unreadable(error, url, key) from error
        raise unreachable(url, error, key) from error
    files = []
    for path, info in found.items():
        name = path.removeprefix(root).lstrip("/")
        if url.startswith(("http://", "https://")):
            name = name.partition("?")[0]  # the query is about access, not content
        if not in_folder or all(map(_is_visible, name.split("/"))):
            address = filesystem.unstrip_protocol(path)
            files.append(DataFile(address, name, info.get("size"), _remote_stamp(info), key, filesystem))
    return files, in_folder


VERSIONS = {"etag", "lastmodified", "mtime", "modified", "modificationtime", "updated", "created", "generation",
            "md5hash", "contentmd5", "digest", "blobid", "crc", "datetime"}  # fmt: skip
"""Names that file systems give to properties that change with the content, in lower case and without `-` and `_`."""


def _remote_stamp(info: Mapping[str, Any]) -> str:
    versions = {
        name: str(value)
        for name, value in info.items()
        if name.lower().replace("-", "").replace("_", "") in VERSIONS and value is not None
    }
    # Without any version the content counts as changed.
    return repr(sorted(versions.items())) if versions else uuid.uuid4().hex


def unreadable(error: OSError, path: str | None = None, key: str = "data.path") -> UserError:
    """Returns the error for a file or folder that cannot be opened or read.

    Args:
        error: Error of the operating system.
        path: Path, if the error does not name the file.
        key: Configuration key of the path.
    """
    path = path or str(error.filename)
    if isinstance(error, FileNotFoundError):
        message = f"{key}: {path} does not exist: give a file or folder that does."
        if os.path.basename(path) == "tinyshakespeare.txt":
            message += (
                " The text is public: data/tinyshakespeare/input.txt in the repository"
                " karpathy/char-rnn; set --config.data.path=FILE to your copy."
            )
        return UserError(message)
    return UserError(
        f"{key}: {path} cannot be read ({error.strerror or error}): "
        f"give this user the right to read it, or change {key}."
    )


def unreachable(url: str, error: Exception, key: str) -> UserError:
    """Returns the error for a remote file that a file system of `fsspec` cannot read."""
    protocol = url.partition("://")[0]
    if isinstance(error, ImportError):
        extra = {"https": "http", "s3a": "s3", "sftp": "ssh"}.get(protocol, protocol)
        return UserError(
            f"{key}: {url} needs a package that is not installed ({error}): "
            f"pip install 'fsspec[{extra}]', or copy the files here and name the copy."
        )
    reason = str(error.__cause__ or error).strip().partition("\n")[0] or type(error).__name__
    return UserError(
        f"{key}: {url} cannot be read ({reason}): check the address, the network and your "
        "credentials, or copy the files here and name the copy."
    )
