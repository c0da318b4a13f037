"""Registry of hooks: `register_hook` adds a hook to every run of the process."""

from collections.abc import Callable, Iterable

from jaxdp.arguments import check_registration, shown
from jaxdp.errors import UserError
from jaxdp.hooks.order import BUILT_IN_NAMES
from jaxdp.report.writer_registry import RunInfo
from jaxdp.signatures import check_method_names, check_overrides
from jaxdp.trainer import Hook

MakeHook = Callable[[RunInfo], Hook | None]
"""Function that makes a hook for a run; None: no hook for this run."""

ARGUMENTS = {
    "on_start": ("step", "state"),
    "request": (),
    "on_dispatch": ("step", "state"),
    "on_step": ("info",),
    "wants_state": ("step",),
    "on_state": ("step", "state"),
    "on_stop": ("step", "state"),
}
"""Methods of a hook, and the names of their arguments."""

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
        UserError: The name is not a string, or `make` cannot be called with a `RunInfo`; see also `check_hook`.
    """
    expected = "a class or function from a RunInfo to a Hook"
    check_registration("hook", name, make, expected, ["info"], built_in=BUILT_IN_NAMES)
    if isinstance(make, type):
        check_hook(make)
    HOOKS[name] = make


def check_hook(hook: Hook | type) -> None:
    """Checks the methods of a hook, or of a class that makes one.

    Raises:
        UserError: It is no `Hook`, it has the name of a built-in one, a method does not take its arguments, or a method that begins with `on_` is none of
            those that are called.
    """
    kind = hook if isinstance(hook, type) else type(hook)
    if not issubclass(kind, Hook):
        found = (
            f"the class {kind.__qualname__}, which does not inherit from jaxdp.Hook" if kind is hook else shown(hook)
        )
        raise UserError(f"a hook must be a jaxdp.Hook, or a function that returns one, found {found}.")
    what = f"the hook {kind.__qualname__}"
    if (name := hook.name or kind.__name__) in BUILT_IN_NAMES:
        raise UserError(
            f"{what} has the name {name!r}, which is that of a built-in hook: set its class attribute `name` to another."
        )
    check_method_names(what, kind, ARGUMENTS, "on_")
    check_overrides(what, hook, Hook, ARGUMENTS)


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
        check_hook(hook)
        made.append(hook)
    return made
