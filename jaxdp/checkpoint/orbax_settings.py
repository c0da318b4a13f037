"""Orbax checkpointer that waits for no other process, its options, and a filter for spurious TensorStore errors."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

JSON_ITEMS = ("data", "config", "provenance")
"""Items of a checkpoint that are JSON."""


def per_process() -> ocp.options.MultiprocessingOptions:
    """Returns options under which Orbax does not wait for other processes."""
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process_{process}"
    )


def _array_handler() -> ocp.PyTreeCheckpointHandler:
    """Returns the handler of NumPy arrays, which writes them from the memory that they have.

    By default Orbax copies them first, and compression keeps an encoded copy of all of them, for 8 % fewer bytes of
    trained parameters.
    """
    numpy_arrays = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    return ocp.PyTreeCheckpointHandler(
        multiprocessing_options=per_process(),
        type_handler_registry=ocp.type_handlers.create_type_handler_registry(
            (np.ndarray, numpy_arrays), (jax.Array, ocp.type_handlers.ArrayHandler())
        ),
        use_compression=False,
    )


def async_checkpointer() -> ocp.AsyncCheckpointer:
    """Returns the checkpointer of composites of `state`, which has arrays, and of `JSON_ITEMS`."""
    handlers: dict[str, Any] = {"state": _array_handler()}
    for item in JSON_ITEMS:
        handlers[item] = ocp.JsonCheckpointHandler(multiprocessing_options=per_process())
    return ocp.AsyncCheckpointer(
        ocp.CompositeCheckpointHandler(
            composite_options=ocp.CompositeOptions(multiprocessing_options=per_process()), **handlers
        ),
        # Created in the background, directories that cannot be made hold the process for minutes.
        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
        multiprocessing_options=per_process(),
    )


@contextlib.contextmanager
def suppress_event_loop_errors() -> Iterator[None]:
    """Suppresses the unraisable "Event loop is closed" errors that TensorStore emits after a failed or cancelled transfer.

    After an exception the filter stays installed, since these errors come later.
    """
    show = sys.unraisablehook

    def show_others(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = show_others
    yield
    sys.unraisablehook = show
