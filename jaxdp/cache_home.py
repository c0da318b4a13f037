"""Cache directories: the user's own if it is writable, else one below the system's temporary directory."""

import functools
import os
import stat
import tempfile
from pathlib import Path

from jaxdp.errors import UserError
from jaxdp.report.terminal import print_status


def cache_home() -> Path:
    """Returns the cache directory for prepared data and compiled programs.

    `XDG_CACHE_HOME/jaxdp`, by default `~/.cache/jaxdp`. A user without a writable home directory gets a private
    directory below the temporary directory, which is reported once.

    Raises:
        UserError: Neither directory is writable.
    """
    return _cache_home(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


@functools.cache
def _cache_home(usual: str) -> Path:
    why = why_unwritable(os.path.join(usual, "jaxdp"))
    if not why:
        return Path(usual, "jaxdp")
    directory = Path(tempfile.gettempdir(), f"jaxdp-{os.getuid()}")
    if found := _make_own(directory):
        raise UserError(
            f"{usual} cannot hold a cache ({why}), nor can {directory} ({found}); set XDG_CACHE_HOME to a directory that you can write."
        )
    print_status(
        f"{usual} cannot be written ({why}); prepared data and compiled programs go to {directory}, set XDG_CACHE_HOME to choose another place"
    )
    return directory


def why_unwritable(path: str) -> str:
    """Returns the reason why a directory cannot be written or created, "" if it can; creates nothing."""
    if path.startswith("~"):
        return "there is no home directory"
    while not os.path.exists(path):
        path = os.path.dirname(path) or "."
    if not os.path.isdir(path):
        return f"{path} is not a directory"
    return "" if os.access(path, os.W_OK | os.X_OK) else f"{path} is read-only for this user"


def _make_own(directory: Path) -> str:
    """Creates a private directory in a shared place; returns the reason why it is not this user's own, "" if it is."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        return error.strerror or str(error)
    return _why_shared(directory)


def _why_shared(directory: Path) -> str:
    """Returns the reason why a directory in a shared place is not this user's own, "" if it is."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        return "others can write to it"
    return ""


def set_matplotlib_directory() -> None:
    """Sets a writable configuration directory for Matplotlib, before its first import, if its own is not writable."""
    configured = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    if "MPLCONFIGDIR" not in os.environ and why_unwritable(os.path.join(configured, "matplotlib")):
        os.environ["MPLCONFIGDIR"] = str(cache_home() / "matplotlib")
