"""Functions of a user that do not accept the arguments of jaxdp are refused before they are called."""

import functools

import pytest

from jaxdp.errors import UserError
from jaxdp.signatures import check_method_names, check_overrides, check_signature


class Base:
    def first(self, step):
        return step

    def second(self):
        return None


def refused(check, *arguments):
    with pytest.raises(UserError) as error:
        check(*arguments)
    return str(error.value)


def no_argument():
    return None


@pytest.mark.parametrize(
    "function",
    [
        lambda info: info,
        lambda info, *, more=1: info,
        lambda *anything, **named: anything,
        functools.partial(lambda a, b: a, 1),
        dict,
        len,
        type("Made", (), {"__init__": lambda self, info: None}),
        type("Called", (), {"__call__": lambda self, info: info})(),
    ],
)
def test_what_accepts_the_arguments_passes(function):
    check_signature("it", function, ["info"])


@pytest.mark.parametrize(
    "function",
    [
        no_argument,
        lambda info, more: info,
        lambda info, *, more: info,
        lambda *, info: info,
        type("Made", (), {}),
        type("Made", (), {"__init__": lambda self: None}),
        type("Called", (), {"__call__": lambda self: None})(),
    ],
)
def test_what_does_not_is_refused(function):
    assert "is called with the arguments (info), but accepts" in refused(check_signature, "it", function, ["info"])


def test_the_message_names_function_definition_and_place():
    message = refused(check_signature, "source 'mine'", no_argument, ["spec"])
    line = no_argument.__code__.co_firstlineno
    assert message == (
        "source 'mine': no_argument is called with the arguments (spec), but accepts none: define no_argument(spec) "
        f"in {__file__}, line {line}."
    )


def test_a_class_without_init_is_told_to_define_one():
    assert "define Base.__init__(self, info)" in refused(check_signature, "hook 'mine'", Base, ["info"])


@pytest.mark.parametrize("as_class", [True, False])
def test_only_methods_that_a_class_overrides_are_checked(as_class):
    def of(**methods):
        kind = type("Own", (Base,), methods)
        return kind if as_class else kind()

    arguments = {"first": ("step",), "second": ()}
    check_overrides("it", of(), Base, arguments | {"first": ("step", "state")})
    check_overrides("it", of(first=lambda self, step: 1, second=staticmethod(lambda: 2)), Base, arguments)
    message = refused(check_overrides, "it", of(first=lambda self, step, metrics: 1), Base, arguments)
    assert "(self, step)" in message or "(step)" in message
    refused(check_overrides, "it", of(second=staticmethod(lambda step: 2)), Base, arguments)


def test_a_method_that_is_never_called_is_refused_with_the_nearest():
    kind = type("Own", (), {"on_steps": lambda self: None, "helper": lambda self: None, "on_data": 3})
    message = refused(check_method_names, "the hook Own", kind, ["on_step", "on_state"], "on_")
    assert "has the method on_steps, which jaxdp never calls" in message and "did you mean 'on_step'?" in message
    check_method_names("the hook Own", Base, ["on_step"], "on_")
