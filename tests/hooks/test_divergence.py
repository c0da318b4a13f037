"""A run whose updates stay non-finite."""

import pytest

from jaxdp.data.prefetch import QueueState
from jaxdp.errors import TrainingDiverged
from jaxdp.hooks.divergence import Divergence
from jaxdp.state import StepInfo


def after(hook, step, in_a_row):
    hook.on_step(StepInfo(step, {"skipped_in_a_row": in_a_row}, 0.1, QueueState(2, 2, 0.0)))


def test_a_few_bad_updates_are_borne_and_too_many_are_not():
    hook = Divergence(3)
    for step, in_a_row in enumerate((0, 1, 2, 0, 1, 2), start=1):
        after(hook, step, in_a_row)
    with pytest.raises(TrainingDiverged, match=r"last 3 updates up to step 7 .* before step 5 are good") as error:
        after(hook, 7, 3)
    assert error.value.exit_code == 3


def test_a_limit_of_0_stops_at_the_first_bad_update():
    hook = Divergence(0)
    after(hook, 1, 0)
    with pytest.raises(TrainingDiverged, match="last 1 updates up to step 2"):
        after(hook, 2, 1)
