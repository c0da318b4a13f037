"""Atomic file replacement: a file is complete or absent at every moment, also when the process is killed."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_replacement(path: Path, *, fsync: bool = False) -> Iterator[Path]:
    """Replaces a file by one rename, once the new content is complete.

    If the block raises, the temporary file is removed and `path` stays as it was.

    Args:
        path: File to create or replace.
        fsync: Whether the content is on disk before the rename, so that it survives a power failure.

    Yields:
        Path of the temporary file to write, in the directory of `path`; it does not exist yet.

    Raises:
        OSError: The file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        temporary.unlink(missing_ok=True)  # left by a killed process that had this number
        yield temporary
        if fsync:
            fsync_path(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Writes a UTF-8 file by `atomic_replacement`.

    Raises:
        OSError: The file cannot be written.
    """
    with atomic_replacement(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def fsync_path(path: Path) -> None:
    """Waits until the content of a file, or the entries of a directory, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync directories
            raise
    finally:
        os.close(descriptor)
