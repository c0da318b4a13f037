"""Checks of the examples that a task's `prepare` returns."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdp.arguments import shown
from jaxdp.errors import UserError
from jaxdp.signatures import defined_in


def check_example(prepare: Callable, example: Any) -> None:
    """Checks the arrays of one record.

    Args:
        prepare: The function that returned them, for the message.
        example: What it returned.

    Raises:
        UserError: It is no dict of numbers without axes and of arrays of whole numbers of at least 0 with one axis.
    """
    if not isinstance(example, Mapping) or not example:
        raise UserError(
            f'{_what(prepare)} must return a dict of arrays, such as {{"tokens": token ids}}, found {shown(example)}.'
        )
    for name, values in example.items():
        array = np.asarray(values)
        if array.dtype.kind not in ("biu" if array.ndim else "biuf") or array.ndim > 1:
            raise UserError(
                f"{_what(prepare)}: {name!r} must be one number or an array of whole numbers with one axis, found "
                f"{array.dtype} {list(array.shape)}."
            )
        if array.ndim and array.dtype.kind == "i" and array.size and array.min() < 0:
            raise UserError(
                f"{_what(prepare)}: {name!r} has the number {array.min()}, but the numbers of an array must be at least 0: "
                "use a mask of 0 and 1 for what does not count."
            )


def check_same_arrays(prepare: Callable, first: Mapping[str, Any], example: Mapping[str, Any]) -> None:
    """Raises UserError unless two records have arrays of the same names."""
    if first.keys() != example.keys():
        raise UserError(
            f"{_what(prepare)} must return the same arrays for every record, found {', '.join(first)} for the first and "
            f"{', '.join(example)} for another."
        )


def _what(prepare: Callable) -> str:
    return f"prepare of the task{defined_in(prepare)}"
