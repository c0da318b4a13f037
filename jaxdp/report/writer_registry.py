"""Registry of metrics writers, and the facts of a run that writers and hooks of one's own are made from."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxdp.arguments import check_registration, shown
from jaxdp.errors import UserError
from jaxdp.report.writers import MetricsWriter
from jaxdp.run_config import RunConfig
from jaxdp.signatures import check_overrides

if TYPE_CHECKING:
    from typing_extensions import TypeIs  # of typing from Python 3.13 on


@dataclass(frozen=True)
class RunInfo:
    """Facts of a run for its writers and hooks.

    Attributes:
        config: Resolved configuration.
        workdir: Work directory.
        first_step: Number of updates completed when the loop starts.
        total_steps: Number of updates of the run.
        is_main_process: Whether this process is the one that writes.
        write: Function (step, metrics by full name) -> None that passes metrics to all writers, in the main process.
        write_samples: Function (step, texts by name) -> None that passes generated texts to all trackers.
        write_figure: Function (step, full name, function that draws a PNG) -> None that passes a picture to all
            trackers; the function is called in a thread, once.
    """

    config: RunConfig
    workdir: Path
    first_step: int
    total_steps: int
    is_main_process: bool
    write: Callable[[int, Mapping[str, float | str]], None]
    write_samples: Callable[[int, Sequence[Mapping[str, str]]], None] = lambda step, samples: None
    write_figure: Callable[[int, str, Callable[[], bytes]], None] = lambda step, name, draw: None


MakeWriter = Callable[[RunInfo], MetricsWriter | None]
"""Function that opens a writer for a run; None: no writer for this run."""

ARGUMENTS = {"write": ("step", "values"), "close": ()}
"""Methods of a writer, and the names of their arguments."""

WRITERS: dict[str, MakeWriter] = {}
"""Registered writers by name."""

IN_BACKGROUND: set[str] = set()
"""Names of the registered writers that `jaxdp.report.trackers.background` calls."""


def register_writer(name: str, make: MakeWriter, *, background: bool = False) -> None:
    """Adds a metrics writer to every run of this process; a later registration of the name replaces it.

    The main process opens it when the training loop starts and closes it when the loop ends. A rollback starts the
    loop again: steps after `RunInfo.first_step` are then written again.

    Args:
        name: Name of the writer.
        make: Class or function from a `RunInfo` to an object with `write(step, values)` and `close()`; None: no
            writer for this run.
        background: Whether the writer is opened and called in a thread of its own, as those of tracking services are:
            training does not wait for it, and its exceptions are printed once and do not end the run.

    Raises:
        UserError: The name is not a string, or `make` cannot be called with a `RunInfo`.
    """
    check_registration("writer", name, make, "a class or function from a RunInfo to a writer", ["info"])
    WRITERS[name] = make
    (IN_BACKGROUND.add if background else IN_BACKGROUND.discard)(name)


def is_writer(value: object) -> "TypeIs[MetricsWriter]":
    """Returns True for a writer, False for a class or function that makes one."""
    return not isinstance(value, type) and all(callable(getattr(value, name, None)) for name in ARGUMENTS)


def check_writer(writer: object) -> None:
    """Checks the methods of a metrics writer.

    Raises:
        UserError: One is missing, or does not take its arguments.
    """
    if not is_writer(writer):
        raise UserError(f"a metrics writer must have write(step, values) and close(), found {shown(writer)}.")
    check_overrides(f"the metrics writer {type(writer).__qualname__}", writer, object, ARGUMENTS)


def open_own_writers(given: Iterable[MakeWriter], info: RunInfo) -> list[MetricsWriter]:
    """Returns the registered writers that are called at once, then those that `given` makes.

    Raises:
        UserError: A function returns something that is not a writer.
    """
    opened = []
    for make in (*(make for name, make in WRITERS.items() if name not in IN_BACKGROUND), *given):
        writer = make(info)
        if writer is None:
            continue
        check_writer(writer)
        opened.append(writer)
    return opened
