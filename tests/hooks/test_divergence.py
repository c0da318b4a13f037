"""A run whose updates stay bad."""

import math

import pytest

from jaxdp.data.prefetch import QueueState
from jaxdp.hooks.divergence import Diverged, Divergence
from jaxdp.trainer import StepInfo


def after(hook, step, in_a_row, loss=math.nan, grad_norm=1.0):
    metrics = {"skipped_in_a_row": in_a_row, "loss": loss, "grad_norm": grad_norm}
    hook.on_step(StepInfo(step, metrics, 0.1, QueueState(2, 2, 0.0)))


def test_a_few_bad_updates_are_borne_and_too_many_are_not():
    hook = Divergence(3)
    for step, in_a_row in enumerate((0, 1, 2, 0, 1, 2), start=1):
        after(hook, step, in_a_row)
    with pytest.raises(Diverged) as error:
        after(hook, 7, 3)
    assert (error.value.first_step, error.value.num_steps) == (5, 3)


def test_how_late_it_is_seen_does_not_change_which_updates_are_meant():
    """A run killed after the last one it bears meets the next before it hears of them."""
    with pytest.raises(Diverged) as error:
        after(Divergence(3), 8, 4)
    assert (error.value.first_step, error.value.num_steps) == (5, 3)


@pytest.mark.parametrize(
    ("loss", "grad_norm", "is_finite"), [(math.nan, 1.0, False), (1.0, math.inf, False), (1.0, 1.0, True)]
)
def test_a_finite_one_was_a_spike(loss, grad_norm, is_finite):
    with pytest.raises(Diverged) as error:
        after(Divergence(1), 2, 1, loss, grad_norm)
    assert error.value.is_finite is is_finite
