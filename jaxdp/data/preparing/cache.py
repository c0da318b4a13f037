"""Cache of prepared data: directories that are complete or absent, each built once.

An entry is named by everything that its content depends on, so it is never out of date. It is built next to its place
and renamed into it, with its list of files written last: a killed process leaves nothing that could be taken for an
entry. If several processes need the same entry, one builds it, and the others wait and log that.

Files that end in ARRAY are read in places by `BlockFile`, which verifies the blocks that it reads; all other files are
verified before an entry is used.
"""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxdp.data.block_checksums import write_block_checksums
from jaxdp.data.file_digest import file_digest
from jaxdp.errors import UserError
from jaxdp.lock import exclusive

ENTRY = "entry.json"
ARRAY = ".bin"

Log = Callable[[str], None]


def entry_path(root: Path, kind: str, key: Mapping[str, Any]) -> Path:
    """Returns the path of the entry of this key.

    Args:
        root: Directory of the cache.
        kind: First part of the name: scan, tokenizer, tokens, ...
        key: JSON values, everything that the content depends on.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return root / f"{kind}-{digest[:24]}"


def is_whole(entry: Path) -> bool:
    """Checks that an entry exists with every file as it was written.

    Of an array larger than 2 MiB only the size and both ends are checked, since reading all tokens may delay the start; its
    other blocks are verified when they are used.
    """
    try:
        if not stat.S_ISREG(os.stat(entry / ENTRY).st_mode):
            return False
        files = json.loads((entry / ENTRY).read_bytes())["files"]
        return all(_digest(entry / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _digest(path: Path) -> str:
    return file_digest(path, ends_only=path.suffix == ARRAY)


def cached(entry: Path, build: Callable[[Path], None], log: Log) -> Path:
    """Returns the directory of a complete entry, built first if it does not exist.

    Args:
        entry: Path from `entry_path`.
        build: Function that fills an empty directory; if it raises, no entry is left.
        log: Receives a message if another process builds the entry, or if a damaged entry is built again.

    Raises:
        UserError: The cache cannot be written to.
    """
    if is_whole(entry):
        return entry
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        waiting = f"waiting for {{}}, which prepares the same data in {entry.parent}"
        with exclusive(entry.with_name(entry.name + ".lock"), lambda holder: log(waiting.format(holder))):
            if not is_whole(entry):
                if os.path.lexists(entry):
                    log(f"{entry} is damaged and is built again")
                _build(entry, build)
    except OSError as error:
        raise UserError(
            f"data.cache_dir={entry.parent} cannot be written to ({error.strerror or error}); make room there, or "
            "set data.cache_dir to another directory."
        ) from error
    return entry


def discard(entry: Path) -> bool:
    """Marks an entry as damaged, so that the next start builds it again.

    Returns:
        False if the cache cannot be written to.
    """
    try:
        (entry / ENTRY).unlink(missing_ok=True)
    except OSError:
        return False
    return True


def damaged_entry(entry: Path, path: str, found: str, *, still_used: bool = True) -> UserError:
    """Returns the error for a file of an entry that differs from what was written, and discards the entry.

    Args:
        entry: Cache entry.
        path: Path of the file.
        found: Description of the damage.
        still_used: False: another process has built the entry again, so it stays.
    """
    cure = "run the same command again, which prepares it again."
    if still_used and not discard(entry):
        cure = f"delete {entry} and run the same command again."
    return UserError(f"{path} in the cache of prepared data is damaged: {found}; {cure}")


def _build(entry: Path, build: Callable[[Path], None]) -> None:
    partial = entry.with_name(entry.name + ".partial")
    for leftover in (partial, entry):
        _remove(leftover)
    partial.mkdir()
    try:
        build(partial)
        for path in _files(partial):
            if path.suffix == ARRAY:
                write_block_checksums(path)
        files = {path.relative_to(partial).as_posix(): _digest(path) for path in _files(partial)}
        with open(partial / ENTRY, "w", encoding="utf-8") as file:
            json.dump({"files": files}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # already renamed unless something failed


def _remove(path: Path) -> None:
    """Removes a file, link or directory in the place of an entry."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())
