"""Call signatures of a user's functions, checked before jaxdp calls them."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence

from jaxdp.errors import UserError
from jaxdp.nearest import closest


def check_signature(what: str, function: Callable, arguments: Sequence[str]) -> None:
    """Checks that a function takes the arguments that jaxdp passes, all of them by position.

    Args:
        what: The function, for the message, e.g. "hook 'norm'".
        function: Function, class or bound method; one without a signature, as of a C extension, is not checked.
        arguments: Names of the arguments.

    Raises:
        UserError: A call with these arguments fails.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        name = getattr(function, "__qualname__", type(function).__qualname__)
        taken = f"self, {', '.join(arguments)}" if _has_self(function) else ", ".join(arguments)
        defined = f"{name}.__init__" if isinstance(function, type) else name
        raise UserError(
            f"{what}: {name} is called with the arguments ({', '.join(arguments)}), but accepts {_parameters(signature)}: "
            f"define {defined}({taken}){_place(function)}."
        ) from None


def check_overrides(what: str, value: object, base: type, arguments: Mapping[str, Sequence[str]]) -> None:
    """Checks the methods that an object's class defines in place of those of its base class.

    Args:
        what: The object, for messages, e.g. "the hook ParameterNorm".
        value: Object, or its class.
        base: Base class.
        arguments: Names of the arguments of each method.

    Raises:
        UserError: A method does not take its arguments.
    """
    kind = value if isinstance(value, type) else type(value)
    for name, names in arguments.items():
        method = getattr(kind, name, None)
        if method is None or method is getattr(base, name, None):
            continue
        if isinstance(value, type):
            names = names if isinstance(inspect.getattr_static(kind, name), staticmethod) else ("self", *names)
            check_signature(what, method, names)
        else:
            check_signature(what, getattr(value, name), names)


def check_method_names(what: str, kind: type, known: Iterable[str], prefix: str) -> None:
    """Raises UserError for a method whose name has the prefix of methods that jaxdp calls, but is none of them."""
    known = tuple(known)
    for name in dir(kind):
        if name.startswith(prefix) and name not in known and callable(getattr(kind, name)):
            match = closest(name, known)
            raise UserError(
                f"{what} has the method {name}, which jaxdp never calls: expected one of {', '.join(known)}"
                f"{f'; did you mean {match!r}?' if match else ''}"
            )


def _has_self(function: Callable) -> bool:
    """Returns True for what is defined with `self`: a class or a bound method."""
    return isinstance(function, type) or inspect.ismethod(function)


def _parameters(signature: inspect.Signature) -> str:
    names = [str(parameter.replace(annotation=parameter.empty)) for parameter in signature.parameters.values()]
    return f"({', '.join(names)})" if names else "none"


def _place(function: Callable) -> str:
    """Returns the place of a definition for a message; empty for a class or where there is none."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f" in {code.co_filename}, line {code.co_firstlineno}" if code else ""


def defined_in(thing: Callable) -> str:
    """Returns name, file and line of a user's class or function for a message, e.g. " (Mine in task.py, line 3)".

    The place is left out where there is none, as of a class that a program makes.
    """
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    place = _class_place(thing) if isinstance(thing, type) else _place(thing)
    return f" ({name}{place})"


def _class_place(kind: type) -> str:
    try:
        return f" in {inspect.getsourcefile(kind)}, line {inspect.getsourcelines(kind)[1]}"
    except (OSError, TypeError):
        return ""
