"""Replica check: its steps, and the end of a run whose replicas differ."""

import numpy as np
import pytest
from tiny_training import topology

from jaxdp.data.prefetch import QueueState
from jaxdp.errors import ReplicasDiffer
from jaxdp.hooks.consistency import Consistency
from jaxdp.hooks.every import Every
from jaxdp.trainer import StepInfo

EQUAL = np.full((4, 2), 7, np.uint32)
ONE_DIFFERS = np.where(np.arange(4)[:, None] == [2, 9], 8, EQUAL)


class Run:
    """Runs the hook in a loop that saves at given steps; states are the checksums themselves."""

    def __init__(self, every=0, saved_at=()):
        self.asked = []
        self.hook = Consistency(
            self.checksums, ["params/a", "params/b"], topology(4), Every(every), saved_at.__contains__
        )

    def checksums(self, state):
        self.asked.append(state)
        return state

    def dispatch(self, step, state=EQUAL):
        self.hook.on_dispatch(step, state)

    def finish(self, step):
        self.hook.on_step(StepInfo(step, {}, 0.1, QueueState(2, 2, 0.0)))


def test_it_asks_at_its_steps_and_at_those_that_are_saved():
    run = Run(every=3, saved_at=(4, 6))
    states = [EQUAL.copy() for _ in range(8)]
    for step, state in enumerate(states):
        run.dispatch(step + 1, state)
        run.finish(step + 1)
    expected = [states[step - 1] for step in (3, 4, 6)]
    assert len(run.asked) == 3 and all(a is b for a, b in zip(run.asked, expected, strict=True))


def test_the_answer_is_read_with_the_numbers_of_its_step():
    run = Run(every=3)
    run.dispatch(3, ONE_DIFFERS)
    run.finish(2)  # read behind the dispatch of step 3
    run.dispatch(4)
    with pytest.raises(ReplicasDiffer) as error:
        run.finish(3)
    assert error.value.exit_code == 70
    assert str(error.value) == (
        "the devices no longer hold the same state after step 3: device 2 (process 0) differs from the other 3 "
        "in params/a; nothing of it was saved. Run the same command again to continue from the last checkpoint, "
        "which is good; if the same device is named again, take it out of service: its memory or arithmetic is faulty."
    )


def test_the_last_state_is_compared_before_it_is_saved():
    run = Run(every=3)
    run.dispatch(1)
    run.finish(1)
    with pytest.raises(ReplicasDiffer, match=r"after step 1: device 2 "):
        run.hook.on_stop(1, ONE_DIFFERS)


def test_the_last_state_is_not_compared_twice():
    run = Run(every=3)
    run.dispatch(3)
    run.finish(3)
    run.hook.on_stop(3, EQUAL)
    assert len(run.asked) == 1
