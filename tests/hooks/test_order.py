"""Hooks are sorted by their declarations."""

import itertools
import random

import pytest

from jaxdp.errors import UserError
from jaxdp.hooks.checkpointing import Checkpointing
from jaxdp.hooks.consistency import Consistency
from jaxdp.hooks.divergence import Divergence
from jaxdp.hooks.early_stopping import EarlyStopping
from jaxdp.hooks.evaluating import Evaluating
from jaxdp.hooks.logging import Logging
from jaxdp.hooks.norms import Norms
from jaxdp.hooks.order import BUILT_IN_NAMES, in_order
from jaxdp.hooks.pacing import Pacing
from jaxdp.hooks.preemption import Preemption
from jaxdp.hooks.profiling import Profiling
from jaxdp.hooks.recording import Recording
from jaxdp.hooks.watching import Watching
from jaxdp.trainer import Hook

ORDER = [
    "consistency",
    "preemption",
    "watching",
    "recording",
    "pacing",
    "logging",
    "norms",
    "divergence",
    "evaluating",
    "checkpointing",
    "early_stopping",
    "profiling",
]
"""Order of the built-in hooks."""

OPTIONAL = ("consistency", "early_stopping", "norms", "pacing", "profiling")
BUILT_IN = (
    Checkpointing, Consistency, Divergence, EarlyStopping, Evaluating, Logging, Norms, Pacing, Preemption, Profiling, Recording,
    Watching,
)  # fmt: skip
NAMES = BUILT_IN_NAMES


def test_the_names_are_those_of_the_hooks():
    assert set(BUILT_IN_NAMES) == {kind.name for kind in BUILT_IN} and list(BUILT_IN_NAMES) == ORDER


def hook(name="", after=(), before=()):
    return type("Own", (Hook,), {"name": name, "after": after, "before": before})()


def built_in(left_out=()):
    return [kind.__new__(kind) for kind in BUILT_IN if kind.name not in left_out]


def names(hooks):
    return [each.name for each in hooks]


@pytest.mark.parametrize("left_out", [some for n in range(6) for some in itertools.combinations(OPTIONAL, n)])
def test_built_in_hooks_keep_their_order_whichever_a_run_has(left_out):
    expected = [name for name in ORDER if name not in left_out]
    hooks = built_in(left_out)
    for seed in range(20):
        random.Random(seed).shuffle(hooks)
        assert names(in_order(hooks, absent=NAMES)) == expected


@pytest.mark.parametrize(
    ("declared", "place"),
    [
        ({}, 12),
        ({"after": "evaluating"}, 12),
        ({"before": ("checkpointing",)}, 9),
        ({"before": "consistency"}, 0),
        ({"after": ("logging",), "before": ("divergence",)}, 7),
    ],
)
def test_a_hook_runs_last_unless_it_declares_otherwise(declared, place):
    own = hook("mine", **declared)
    assert names(in_order(built_in(), [own])) == [*ORDER[:place], "mine", *ORDER[place:]]


def test_own_hooks_stay_in_their_order_and_may_name_each_other():
    first, second, third = hook("first"), hook("second", before="first"), hook("third")
    assert names(in_order([], [third, first])) == ["third", "first"]
    assert names(in_order([], [first, second, third])) == ["second", "first", "third"]


def test_a_declaration_may_name_a_hook_that_this_run_lacks():
    assert names(in_order(built_in(OPTIONAL), [hook("mine", before="profiling")], NAMES))[-1] == "mine"
    with pytest.raises(UserError, match="after of the hook Own names 'loging'; expected one of Own, checkpointing, "):
        in_order(built_in(), [hook(after="loging")], NAMES)


def test_contradicting_declarations_are_refused():
    with pytest.raises(UserError, match=r"the hooks .*mine.* each declare to run before the next"):
        in_order(built_in(), [hook("mine", after="checkpointing", before="logging")])
