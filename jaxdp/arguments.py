"""Argument checks of the Python API: types, choices, and calls repeated by a worker process."""

import multiprocessing
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxdp.errors import UserError
from jaxdp.quoting import quoted
from jaxdp.signatures import check_signature

WEIGHTS = ("ema", "raw")

EXPORT_DTYPES = ("float32", "bfloat16", "float16")
"""Dtypes that an export can have."""

SYNCS = ("pmean", "zero3")
"""Layouts of parameters that are only read: replicated, or sharded and gathered layer by layer."""


def check_caller(function: str) -> None:
    """Refuses a call that a spawned worker makes while it imports the caller's script.

    Args:
        function: Name of the called function, for the message.

    Raises:
        UserError: The script that started this process lacks a main guard.
    """
    # The attribute by which multiprocessing itself refuses to start processes from such an import.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            f"{function} is called again by a worker process that imports your script: put the call under "
            '`if __name__ == "__main__":`.'
        )


def check_type(name: str, value: Any, kinds: type | tuple[type, ...], expected: str) -> None:
    """Raises UserError unless a value is of one of these types.

    Args:
        name: Name of the argument, for the message.
        value: Its value.
        kinds: Allowed types.
        expected: Allowed types in words, e.g. "a string".
    """
    if not isinstance(value, kinds):
        raise UserError(f"{name} must be {expected}, found {shown(value)}.")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises UserError unless a value is one of the choices."""
    if not (isinstance(value, str) and value in choices):
        raise UserError(f"{name} must be one of {', '.join(map(repr, choices))}, found {shown(value)}.")


def check_sync(sync: Any) -> None:
    """Raises UserError unless `sync` is a layout of parameters, or None for that of the run."""
    if sync is not None:
        check_choice("sync", sync, SYNCS)


def whole_number(name: str, value: Any) -> int:
    """Returns an integer of any library as a Python int.

    Raises:
        UserError: The value is not an integer.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError as error:
        raise UserError(f"{name} must be a whole number, found {shown(value)}.") from error


def optional_number(name: str, value: Any) -> int | None:
    """Returns an integer as a Python int, or None for None."""
    return None if value is None else whole_number(name, value)


def step_name(value: Any) -> str:
    """Returns `step` as the name of a checkpoint: latest, best or a number.

    Raises:
        UserError: The value is neither a string nor a whole number.
    """
    return value if isinstance(value, str) else str(whole_number("step ('latest', 'best' or a number)", value))


REGISTERED: dict[tuple[str, str], Callable] = {}
"""Classes and functions that `register_*` has taken and that every process of a run executes, by kind and name."""

_MAIN_PROCESS_KINDS = ("writer",)
"""Kinds that only the main process uses, and may be the only one to register."""


def check_registration(
    kind: str, name: Any, factory: Any, expected: str, arguments: Sequence[str], built_in: Iterable[str] = ()
) -> None:
    """Checks the arguments of a `register_*` function.

    Args:
        kind: Kind of the registered object, for messages, e.g. "task".
        name: Name to register.
        factory: Registered class or function.
        expected: What the factory must be, in words.
        arguments: Names of the arguments that the factory is called with.
        built_in: Names that may not be replaced.

    Raises:
        UserError: The name is not a string or belongs to a built-in object, or the factory cannot be called
            with the arguments.
    """
    if not isinstance(name, str) or not name:
        raise UserError(f"the name of {_article(kind)} must be a string, found {name!r}.")
    if name in built_in:
        raise UserError(f"the name {name!r} is that of a built-in {kind}: register yours under another name.")
    if not callable(factory):
        raise UserError(f"{kind} {name!r} must be {expected}, found {shown(factory)}.")
    check_signature(f"{kind} {name!r}", factory, arguments)
    if kind not in _MAIN_PROCESS_KINDS:
        REGISTERED[kind, name] = factory


def unregistered(kind: str) -> str:
    """Returns the fix for a name that is not registered, as a sentence.

    Args:
        kind: What is registered, e.g. "task".
    """
    return (
        f"{_article(kind).capitalize()} of your own is registered by its module: give --config the file that imports it, "
        "or, with a command that has no --config, run that module in place of jaxdp."
    )


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def as_list(name: str, value: Any, kinds: tuple[type, ...], expected: str) -> list:
    """Returns the items of a collection; a single item is a collection of one.

    Args:
        name: Name of the argument, for messages.
        value: An item, or an iterable of items.
        kinds: Types of an item.
        expected: An item in words, e.g. "a string".

    Raises:
        UserError: The value is not an iterable, or has an item of another type.
    """
    if isinstance(value, kinds):
        return [value]
    if isinstance(value, Mapping | bytes) or not isinstance(value, Iterable):
        raise UserError(f"{name} must be {expected} or a list of them, found {shown(value)}.")
    items = list(value)
    for number, item in enumerate(items):
        check_type(f"{name}[{number}]", item, kinds, expected)
    return items


def shown(value: Any) -> str:
    """Returns a value with its type for a message, cut to one short line."""
    return f"{' '.join(quoted(value, 60).split())} ({type(value).__name__})"
