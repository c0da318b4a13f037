"""Activity of a process: the line of code that its main thread executes, and whether it waits for other processes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

_PACKAGE = Path(__file__).parent
_DEVICE_LIBRARIES = ("jax", "jaxlib")
_WAITS_FOR_PROCESSES = ("jaxdp.parallel.control_plane",)
"""Modules whose functions block only until other processes have responded."""


class Activity(NamedTuple):
    """Present activity of a process.

    Attributes:
        phase: Phase of the run, e.g. "training".
        idle_secs: Seconds without progress.
        place: Line of code of the main thread, outside Python's and JAX's own code if possible.
        waits: Whether the main thread waits for devices, and with them for all processes, or for messages of other
            processes. A process that does not wait is the one that the others wait for.
    """

    phase: str
    idle_secs: float
    place: str
    waits: bool


def place_of(thread: int) -> tuple[str, bool]:
    """Returns the line of code that a thread executes, and whether it waits for devices or other processes.

    A thread inside JAX waits for devices, unless it compiles.

    Args:
        thread: Identifier of the thread, as of `threading.get_ident`.
    """
    frames = list(_frames(sys._current_frames().get(thread)))
    if not frames:
        return "no code", False
    in_library = _package(frames[0]) in _DEVICE_LIBRARIES
    compiles = any("compile" in frame.f_code.co_name for frame in frames if _package(frame) in _DEVICE_LIBRARIES)
    waits = (in_library and not compiles) or _module(frames[0]) in _WAITS_FOR_PROCESSES
    own = next((frame for frame in frames if not _is_library(frame)), frames[0])
    return _shown(own), waits


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Yields frames from the innermost to the outermost."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _package(frame: FrameType) -> str:
    return _module(frame).partition(".")[0]


def _is_library(frame: FrameType) -> bool:
    return _package(frame) in (*_DEVICE_LIBRARIES, *sys.stdlib_module_names) and _module(frame) != "__main__"


def _shown(frame: FrameType) -> str:
    path = Path(frame.f_code.co_filename)
    name = path.relative_to(_PACKAGE.parent) if path.is_relative_to(_PACKAGE) else path
    return f"{name}:{frame.f_lineno} in {frame.f_code.co_name}"
