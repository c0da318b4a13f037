"""Checks of a task's batches against its `batch_spec`: names, shapes and dtypes, of the first batch only."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdp.arguments import shown
from jaxdp.data.pipeline import MakeBatch
from jaxdp.errors import UserError
from jaxdp.nearest import closest
from jaxdp.signatures import defined_in
from jaxdp.tasks.task import Task
from jaxdp.typing import HostBatch

Spec = dict[str, jax.ShapeDtypeStruct]


def checked_spec(task: Task, rows: int) -> Spec:
    """Returns `task.batch_spec(rows)`.

    Raises:
        UserError: It is no dict of arrays whose first axis is the rows.
    """
    spec: Any = task.batch_spec(rows)
    what = f"batch_spec of the task{defined_in(task.batch_spec)}"
    if not isinstance(spec, Mapping) or not spec:
        raise UserError(f"{what} must return a dict of jax.ShapeDtypeStruct by name, found {shown(spec)}.")
    for name, array in spec.items():
        if not hasattr(array, "shape") or not hasattr(array, "dtype"):
            raise UserError(f"{what}: {name!r} must be a jax.ShapeDtypeStruct, found {shown(array)}.")
        if tuple(array.shape[:1]) != (rows,):
            raise UserError(f"{what}: the first axis of {name!r} must be the {rows} rows, found {list(array.shape)}.")
    return dict(spec)


def checked_make_batch(task: Task) -> MakeBatch:
    """Returns `task.make_batch` with a check of the first batch that it makes.

    The returned function raises UserError if the arrays differ from `task.batch_spec`.
    """
    is_checked = False

    def make_batch(examples: HostBatch, seed: int, step: int, row_ids: np.ndarray) -> HostBatch:
        nonlocal is_checked
        batch = task.make_batch(examples, seed, step, row_ids)
        if not is_checked:
            check_batch(f"make_batch of the task{defined_in(task.make_batch)}", batch, checked_spec(task, len(row_ids)))
            is_checked = True
        return batch

    return make_batch


def check_batch(what: str, batch: Any, spec: Mapping[str, Any]) -> None:
    """Checks names, shapes and dtypes of a batch; 64-bit numbers count as those of 32 bits, which devices receive.

    Args:
        what: The function that made it, for the message.
        batch: Arrays by name.
        spec: Expected shapes and dtypes by name.

    Raises:
        UserError: They differ.
    """
    if not isinstance(batch, Mapping):
        raise UserError(f"{what} must return a dict of arrays, those of batch_spec, found {shown(batch)}.")
    for name in spec:
        if name not in batch:
            match = closest(name, [own for own in batch if own not in spec])
            raise UserError(
                f"{what} returns no {name!r}, which batch_spec has{f', but {match!r}' if match else ''}: "
                "use the same names in both."
            )
    for name, array in batch.items():
        if name not in spec:
            raise UserError(f"{what} returns {name!r}, which batch_spec has not: use the same names in both.")
        expected, found = _described(spec[name]), _described(array)
        if found != expected:
            raise UserError(f"{what}: {name!r} is {found}, but batch_spec has {expected}: make them equal.")


def _described(array: Any) -> str:
    """Returns the shape and dtype of an array as a device receives it, e.g. "int32 [8, 16]"."""
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        return f"no array but {shown(array)}"
    try:
        dtype = jnp.dtype(jax.dtypes.canonicalize_dtype(array.dtype)).name
    except TypeError:  # strings and objects
        dtype = str(array.dtype)
    return f"{dtype} {list(array.shape)}"
