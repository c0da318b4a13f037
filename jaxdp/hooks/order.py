"""Order of hooks: sorted by what each declares in `after` and `before`."""

import graphlib
import heapq
from collections.abc import Iterable, Sequence

from jaxdp.errors import UserError
from jaxdp.trainer import Hook

BUILT_IN_NAMES = (
    "consistency", "preemption", "watching", "recording", "pacing", "logging", "norms", "divergence", "evaluating",
    "checkpointing",
    "early_stopping",
    "profiling",
)  # fmt: skip
"""Names of the hooks of jaxdp, in their order; a user's hook has another name."""


def hook_name(hook: Hook) -> str:
    """Returns the name of a hook, by default that of its class."""
    return hook.name or type(hook).__name__


def in_order(built_in: Iterable[Hook], own: Sequence[Hook] = (), absent: Iterable[str] = ()) -> list[Hook]:
    """Sorts hooks by their declarations; hooks of a user run after the built-in ones unless they declare otherwise.

    Args:
        built_in: Hooks of jaxdp, in any order.
        own: Hooks of the user; without a declaration they stay in this order.
        absent: Names of hooks that a declaration may name although this run lacks them.

    Raises:
        UserError: A declaration names an unknown hook, or declarations contradict each other.
    """
    hooks = [*built_in, *own]
    named: dict[str, list[int]] = {}
    for number, hook in enumerate(hooks):
        named.setdefault(hook_name(hook), []).append(number)
    known = sorted({*named, *absent})
    sorter: graphlib.TopologicalSorter[int] = graphlib.TopologicalSorter()
    for number, hook in enumerate(hooks):
        sorter.add(number, *(earlier for name in _names(hook, "after", known) for earlier in named.get(name, ())))
        for later in (later for name in _names(hook, "before", known) for later in named.get(name, ())):
            sorter.add(later, number)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        cycle = " -> ".join(hook_name(hooks[number]) for number in error.args[1])
        raise UserError(
            f"the hooks {cycle} each declare to run before the next; change `before` or `after` of one."
        ) from None
    return [hooks[number] for number in _first_ready(sorter)]


def _first_ready(sorter: graphlib.TopologicalSorter) -> Iterable[int]:
    """Yields all numbers, of those that may come next always the smallest."""
    ready = list(sorter.get_ready())
    while ready:
        heapq.heapify(ready)
        number = heapq.heappop(ready)
        yield number
        sorter.done(number)
        ready += sorter.get_ready()


def _names(hook: Hook, declaration: str, known: Sequence[str]) -> Sequence[str]:
    """Returns the names in a declaration.

    Raises:
        UserError: One is unknown.
    """
    names = getattr(hook, declaration)
    names = (names,) if isinstance(names, str) else names
    for name in names:
        if name not in known:
            raise UserError(
                f"{declaration} of the hook {hook_name(hook)} names {name!r}; expected one of {', '.join(known)}."
            )
    return names
