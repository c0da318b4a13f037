"""Validation of user-given paths: `~` is expanded, anything but a local path is refused."""

import os
import re
import sys
from pathlib import Path

from jaxdp.errors import UserError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

HUB = "hf:"
"""Prefix of a name on the Hugging Face Hub, or of a folder with a model."""


def local_path(text: str | os.PathLike[str], option: str) -> Path:
    """Returns the local path that an option names, with `~` expanded.

    Args:
        text: The value of the option.
        option: Name of the option for messages, e.g. "--workdir".

    Raises:
        UserError: The value is not a path, is empty, is a URL, contains a NUL character, or begins with `~` while no home directory is known.
    """
    if not isinstance(text, str | os.PathLike):
        raise UserError(f"{option} must be a path (str or os.PathLike), found {text!r} ({type(text).__name__}).")
    name = os.fsdecode(text)
    check_not_empty(name, option)
    if scheme := _SCHEME.match(name):
        raise UserError(
            f"{option}={name}: {scheme[0]} is not supported here; expected a path of this machine or of a file system mounted on it."
        )
    if "\0" in name:
        raise UserError(
            f"{option}={name!r} holds a NUL character, which no path can; expected the path of a local file or directory."
        )
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{option}={name}: no home directory is known for ~; set HOME or write the path out."
        ) from error


def check_not_empty(name: str, option: str) -> None:
    """Raises UserError where an option that names a file or directory is empty, as `--input=$FILE` is where FILE is not set."""
    if not name:
        raise UserError(f"{option} is empty; expected the path of a file or directory.")


def resolved_path(text: str | os.PathLike[str], option: str) -> Path:
    """Returns `local_path` as an absolute path without links.

    Raises:
        UserError: See `local_path`; or the path contains a loop of links.
    """
    try:
        return local_path(text, option).resolve()
    except (OSError, RuntimeError) as error:  # Python 3.11 and 3.12 raise RuntimeError for a loop
        raise UserError(f"{option}={text} cannot be followed ({error}); check the path for a loop of links.") from error


def check_unicode(path: Path, option: str) -> None:
    """Checks that a path is valid for TensorStore, which stores checkpoints and accepts UTF-8 only.

    Args:
        path: Path in which surrogates stand for bytes outside the file system encoding.
        option: Name of the option that gives it, for messages.

    Raises:
        UserError: A name in the path is not valid text.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fspath(path).encode("ascii", "backslashreplace").decode()
        raise UserError(
            f"{option}={shown} is not valid text in the encoding of file names, {sys.getfilesystemencoding()}: set PYTHONUTF8=1 "
            "or a locale such as LC_ALL=C.UTF-8, or give the directory a name of ASCII letters."
        ) from error
