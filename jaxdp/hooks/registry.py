"""Registry of hooks: `register_hook` adds a hook to every run of the process."""

from collections.abc import Callable, Iterable

from jaxdp.arguments import check_registration, shown
from jaxdp.errors import UserError
from jaxdp.report.writer_registry import RunInfo
from jaxdp.trainer import Hook

MakeHook = Callable[[RunInfo], Hook | None]
"""Function that makes a hook for a run; None: no hook for this run."""

HOOKS: dict[str, MakeHook] = {}
"""Registered hooks by name."""


def register_hook(name: str, make: MakeHook) -> None:
    """Adds a hook to every run of this process; a later registration of the name replaces it.

    It is made on every process of the run, each time the training loop starts: at the start of the run and after a
    rollback. All processes of a run must register the same hooks.

    Args:
        name: Name of the registration.
        make: Class or function from a `RunInfo` to a `Hook`; None: no hook for this run.

    Raises:
        UserError: The name is not a string, or `make` cannot be called.
    """
    check_registration("hook", name, make, "a class or function from a RunInfo to a Hook")
    HOOKS[name] = make


def make_own_hooks(given: Iterable[Hook | MakeHook], info: RunInfo) -> list[Hook]:
    """Returns the registered hooks and those that were given to `jaxdp.train`, in this order.

    Raises:
        UserError: A function returns something that is not a hook.
    """
    made = []
    for make in (*HOOKS.values(), *given):
        hook = make if isinstance(make, Hook) else make(info)
        if hook is None:
            continue
        if not isinstance(hook, Hook):
            raise UserError(f"a hook must be a jaxdp.Hook, or a function that returns one, found {shown(hook)}.")
        made.append(hook)
    return made
