"""Files of a checkpoint: size and SHA-256, comparison with what was recorded, and unreadable files."""

import contextlib
import errno
import hashlib
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxdp.atomic_files import fsync_path
from jaxdp.errors import UserError
from jaxdp.json_files import open_regular, read_regular, why_no_file


def describe_files(directory: Path) -> dict[str, dict[str, Any]]:
    """Returns size and SHA-256 of every file of a checkpoint, by relative path, after syncing all of them to disk."""
    described = {}
    for path in sorted(directory.rglob("*")):
        fsync_path(path)
        if path.is_file():
            described[path.relative_to(directory).as_posix()] = describe_file(path)
    return described


def describe_file(path: Path) -> dict[str, Any]:
    """Returns {"bytes", "sha256"} of a file, as in a manifest."""
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def changed_files(directory: Path, files: Mapping[str, Mapping[str, Any]], *, read_contents: bool = True) -> list[str]:
    """Compares files with their sizes and SHA-256; returns a sentence for each that is missing or changed.

    Args:
        directory: Directory of the files.
        files: Relative path -> {"bytes", "sha256"}; a path that leads out of the directory is never opened.
        read_contents: Whether contents are compared; otherwise only existence and sizes.
    """
    problems = []
    for name, expected in files.items():
        path = directory / name
        if not _is_inside(name):
            problems.append(f"the manifest of {directory} lists {name!r}, a file outside of it")
            continue
        try:
            with reading(path):
                status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                problems.append(f"{path} {why_no_file(path)}, and was a file when it was written")
            elif status.st_size != expected["bytes"]:
                problems.append(f"{path} has {status.st_size} bytes, {expected['bytes']} were written")
            elif read_contents and file_sha256(path) != expected["sha256"]:
                problems.append(f"{path} has another SHA-256 than when it was written")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            problems.append(f"{path} is missing")
        except Unreadable as failure:
            problems.append(str(failure))
    return problems


def _is_inside(name: str) -> bool:
    """Returns True if a relative path stays in its directory."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


_DAMAGE = (errno.EIO, errno.EINVAL, errno.ENXIO, errno.ELOOP, errno.ENAMETOOLONG, errno.EFBIG)
"""Errors other than missing permission: a broken disk, or something other than a regular file in its place."""


class Unreadable(Exception):
    """Raised for a file that the disk cannot read, or that is not a regular file; it counts as damaged."""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Separates disk errors from errors that are not damage, such as missing permission.

    Raises:
        Unreadable: The disk reports an error, or the path is not a regular file.
        UserError: The file cannot be read for another reason, which must be fixed first.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise
    except OSError as error:
        if error.errno in _DAMAGE:
            raise Unreadable(f"{path} cannot be read ({error.strerror})") from error
        raise UserError(
            f"{path} cannot be read ({error.strerror}); fix that, then run the same command again."
        ) from error


def read_file(path: Path) -> bytes:
    """Reads a regular file; see `reading`."""
    with reading(path):
        return read_regular(path)


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a regular file; see `reading`."""
    with reading(path), open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
