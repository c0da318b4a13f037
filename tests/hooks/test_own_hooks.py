"""Hooks and writers of a user are checked when they are registered or given to `jaxdp.train`."""

import pytest

import jaxdp
from jaxdp.errors import UserError
from jaxdp.hooks.registry import ARGUMENTS, check_hook, make_own_hooks
from jaxdp.hooks.watching import InPhase
from jaxdp.report.writer_registry import open_own_writers
from jaxdp.trainer import Hook, Request


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    monkeypatch.setattr("jaxdp.hooks.registry.HOOKS", {})
    monkeypatch.setattr("jaxdp.report.writer_registry.WRITERS", {})


class WithInfo(Hook):
    def __init__(self, info):
        self.info = info


def kind(**methods):
    return type("Mine", (WithInfo,), methods)


def test_the_arguments_are_those_of_the_base_class():
    for name, arguments in ARGUMENTS.items():
        code = getattr(Hook, name).__code__
        assert code.co_varnames[: code.co_argcount] == ("self", *arguments)
    methods = {name for name in vars(Hook) if callable(getattr(Hook, name)) and not name.startswith("_")}
    assert methods == set(ARGUMENTS)


WRONG = {
    "no init": (type("Mine", (Hook,), {}), r"Mine is called with the arguments \(info\).*define Mine.__init__\(self, info\)"),
    "no hook": (type("Plain", (), {"__init__": lambda self, info: None}), r"found the class Plain, which does not inherit from jaxdp.Hook"),
    "arguments": (kind(on_step=lambda self, step, metrics: None), r"the hook Mine: .* is called with the arguments"),
    "misspelled": (kind(on_steps=lambda self, info: None), r"on_steps, which jaxdp never calls: .*did you mean 'on_step'\?"),
    "built-in name": (kind(name="logging"), r"the hook Mine has the name 'logging', which is that of a built-in hook: set"),
    "built-in class": (type("evaluating", (WithInfo,), {}), r"the hook evaluating has the name 'evaluating', which is that"),
    "no argument": (lambda: WithInfo(0), r"is called with the arguments \(info\), but accepts none"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_hook_is_refused_when_it_is_registered(case):
    make, message = WRONG[case]
    with pytest.raises(UserError, match=message):
        jaxdp.register_hook("mine", make)


def test_the_name_of_a_built_in_hook_is_not_registered():
    with pytest.raises(
        UserError, match="the name 'logging' is that of a built-in hook: register yours under another name"
    ):
        jaxdp.register_hook("logging", WithInfo)


@pytest.mark.parametrize("case", ["no init", "arguments", "no argument", "misspelled", "built-in name"])
def test_a_wrong_hook_is_refused_before_a_run(case, tmp_path):
    make, message = WRONG[case]
    with pytest.raises(UserError, match=message if case != "misspelled" else "on_steps"):
        given = make(0) if case in ("arguments", "misspelled", "built-in name") else make
        jaxdp.train({"total_steps": 1}, tmp_path / "run", hooks=[given])
    assert not (tmp_path / "run").exists()


def test_what_a_function_makes_is_checked():
    with pytest.raises(UserError, match="on_steps, which jaxdp never calls"):
        make_own_hooks([lambda info: WRONG["misspelled"][0](info)], info=0)
    with pytest.raises(UserError, match=r"must be a jaxdp.Hook, or a function that returns one, found 3 \(int\)"):
        make_own_hooks([lambda info: 3], info=0)
    assert make_own_hooks([lambda info: None, WithInfo], info=5)[0].info == 5
    check_hook(WithInfo)


@pytest.mark.parametrize("request_", [None, True, "stop", 3, [], 1.0])
def test_a_request_that_is_none_is_refused(request_):
    hook = kind(request=lambda self: request_)(0)
    with pytest.raises(UserError, match=r"request\(\) of the hook Mine must return a jaxdp.Request, .*found"):
        InPhase(hook, watchdog=None).request()
    hook = kind(request=lambda self: Request.EARLY_STOP)(0)
    assert InPhase(hook, watchdog=None).request() == Request.EARLY_STOP


def test_the_methods_of_a_writer_are_checked():
    def writer(write):
        return type("Writer", (), {"write": write, "close": lambda self: None})()

    with pytest.raises(UserError, match=r"the metrics writer Writer: .*is called with the arguments \(step, values\)"):
        open_own_writers([lambda info: writer(lambda self, values: None)], info=0)
    assert len(open_own_writers([lambda info: writer(lambda self, step, values: None)], info=0)) == 1
    with pytest.raises(UserError, match=r"writer 'mine': .* but accepts \(step, values\)"):
        jaxdp.register_writer("mine", lambda step, values: None)
