"""Provenance of a run: code, versions, command and machine of each start.

`provenance.json` in the work directory is a JSON array with one entry per start; every
checkpoint has the entry of the start that saved it.
"""

import json
import os
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jaxdp.atomic_files import write_atomically
from jaxdp.json_files import parse_json, read_regular
from jaxdp.redact import mask_secrets, redact

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
"""Packages whose versions are recorded, in addition to Python's."""

GIT_SECS = 5.0
"""Limit of all git commands together; `git status` can take longer on a network file system."""

_MAX_BYTES = 2**26
"""Largest provenance.json that is read; an entry has about one kilobyte."""

_NUM_SHOWN = 3
"""Number of entries that `describe_starts` shows."""

Entry = dict[str, Any]


def begin_entry() -> Callable[[], Entry]:
    """Starts to collect the entry of this start in the background, since git may take seconds.

    Returns:
        A function that waits for the entry and returns it.
    """
    entry: Entry = {"start_time": time.time()}
    thread = threading.Thread(target=lambda: entry.update(_facts()), name="jaxdp-provenance", daemon=True)
    thread.start()

    def finished() -> Entry:
        thread.join()
        return dict(entry)

    return finished


def _facts() -> Entry:
    directory, deadline = _current_directory(), time.monotonic() + GIT_SECS
    package = sys.modules["jaxdp"]  # already loaded; importing it from this floor is not allowed
    return {
        "jaxdp": {"version": package.__version__, **_git_state(Path(__file__).parent, deadline, tracked="__init__.py")},
        "directory": {"path": directory, **_git_state(Path(directory) if directory else None, deadline)},
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "command": [mask_secrets(argument) for argument in sys.argv],
        "host": socket.gethostname(),
        "process_id": os.getpid(),
    }


def _current_directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # the directory was deleted
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # importable without being installed
        return None


def _git_state(directory: Path | None, deadline: float, tracked: str = ".") -> dict[str, Any]:
    """Reads the commit of a directory's repository and whether its tracked files are unchanged.

    Args:
        directory: Directory inside the repository.
        deadline: Time of the monotonic clock at which git commands are aborted.
        tracked: Path in the directory that the repository must track, since an installed package
            may be in an ignored folder of another project.

    Returns:
        {"commit", "clean"}, each None if unknown or if git is not installed.
    """
    unknown = {"commit": None, "clean": None}
    if directory is None or not _git(directory, deadline, "ls-files", "--", tracked):
        return unknown
    commit = _git(directory, deadline, "rev-parse", "--verify", "HEAD")
    if not commit:
        return unknown
    changes = _git(directory, deadline, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit.strip(), "clean": None if changes is None else not changes}


def _git(directory: Path, deadline: float, *arguments: str) -> str | None:
    """Returns the output of a git command in a directory; None if git fails, is missing or takes too long."""
    # Variables such as GIT_DIR name another repository. Git must neither lock the repository nor run its hooks.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(directory), *arguments]
    timeout = max(deadline - time.monotonic(), 0.0)
    try:
        finished = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return finished.stdout.decode(errors="replace")


def read_entries(path: Path) -> list[Entry] | None:
    """Reads a provenance.json; empty if it is missing, None if it is not valid."""
    try:
        entries = parse_json(read_regular(path, _MAX_BYTES))
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        return None
    is_valid = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    return entries if is_valid else None


def first_step(entry: Mapping[str, Any]) -> int:
    """Returns the number of updates before a start; 0 where it is not recorded."""
    value = entry.get("first_step")
    return value if isinstance(value, int) else 0


def add_entry(path: Path, entry: Mapping[str, Any], log: Callable[[str], None]) -> None:
    """Appends an entry to a provenance.json by atomic replacement.

    Args:
        path: Path of the file. An invalid file is renamed and kept.
        entry: Entry of plain JSON values.
        log: Called with a sentence if a file was renamed.

    Raises:
        OSError: The file cannot be written.
    """
    entries = read_entries(path)
    if entries is None:
        aside = path.with_name(f"{path.name}.damaged.{time.time_ns()}")
        path.rename(aside)
        log(f"{path} is not a JSON array of starts and is set aside as {aside}; a new one begins")
        entries = []
    write_atomically(path, json.dumps([*entries, dict(entry)], indent=1) + "\n")


def describe_starts(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Formats the last starts as lines for the terminal, the newest last."""
    shown = entries[-_NUM_SHOWN:]
    head = f"starts   (the last {len(shown)} of {len(entries)})" if len(shown) < len(entries) else "starts"
    return [head, *(f"  {line}" for entry in shown for line in describe_entry(entry))] if shown else []


def describe_entry(entry: Mapping[str, Any]) -> list[str]:
    """Formats one start as two lines: time, machine and versions; the command. Accepts entries of any content."""
    devices, code, versions = (_object(entry, name) for name in ("devices", "jaxdp", "versions"))
    parts = [
        _time(entry.get("start_time")),
        f"from step {entry['first_step']}" if "first_step" in entry else "",
        f"host {entry.get('host')}",
        f"{devices.get('count')} x {devices.get('kind')}" if devices else "",
        f"{entry['num_processes']} processes" if entry.get("num_processes", 1) != 1 else "",
        f"jaxdp {code.get('version')}{_commit(code)}",
        f"directory{_commit(directory)}" if (directory := _object(entry, "directory")).get("commit") else "",
        f"jax {versions.get('jax')}, Python {versions.get('python')}",
    ]
    command = entry.get("command")
    words = " ".join(map(str, command)) if isinstance(command, list) else "unknown command"
    return [_one_line(", ".join(filter(None, parts))), f"  {_one_line(words)}"]


def _one_line(text: str) -> str:
    return " ".join(redact(text).split())


def _object(entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = entry.get(name)
    return value if isinstance(value, Mapping) else {}


def _commit(state: Mapping[str, Any]) -> str:
    if not state.get("commit"):
        return ""
    changes: dict[Any, str] = {True: "", False: " with changes"}
    changed = changes.get(state.get("clean"), " (changes unknown)")
    return f" at {str(state['commit'])[:12]}{changed}"


def _time(secs: Any) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(secs))
    except (TypeError, ValueError, OverflowError, OSError):
        return "at an unknown time"
