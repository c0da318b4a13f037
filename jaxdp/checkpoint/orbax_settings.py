"""How Orbax is used: by each process for itself, and without what TensorStore below it says to nobody."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp


def by_itself() -> ocp.options.MultiprocessingOptions:
    """Orbax as if there were no other process."""
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process_{process}"
    )


@contextlib.contextmanager
def without_echoes() -> Iterator[None]:
    """Silences what TensorStore raises, where nobody listens, for every array after the first that failed or was interrupted.

    After an error it stays silent, since the echoes come later.
    """
    show = sys.unraisablehook

    def show_others(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others
    yield
    sys.unraisablehook = show
