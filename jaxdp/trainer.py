"""The training loop.

It dispatches a step and only then reads the metrics of the step before, so the
devices never wait for Python. What else happens around a step is in the hooks:
`on_dispatch` may put further work for the devices behind the step, `on_step`
sees the numbers of a finished step, `on_state` sees the state itself, in the
moment before the next step takes its buffers.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from jaxdp.data.prefetch import QueueState
from jaxdp.parallel.spmd import Program
from jaxdp.state import StepInfo, TrainState

SAVE_REQUEST = 1
"""Request to save after the next step; anything larger is a request to stop."""


class Abandoned(Exception):
    """Raised by `on_step`: what the run has become is not to be used. The loop returns it in its outcome."""


class StopHere(Exception):
    """Raised by `on_start` and `on_state`: all processes have agreed to stop after this step.

    Attributes:
        request: the agreed request.
    """

    def __init__(self, request: int):
        super().__init__(f"request {request}")
        self.request = request


class Hook:
    """What happens around the steps; every method may be left as it is."""

    def on_start(self, step: int, state: TrainState) -> None:
        """The loop is about to go on from the state after `step` updates."""

    def request(self) -> int:
        """What this process asks all processes to do; asked before each step."""
        return 0

    def on_dispatch(self, step: int, state: TrainState) -> None:
        """The step is under way; programs that read its state may be started, but not waited for."""

    def on_step(self, info: StepInfo) -> None:
        """The numbers of a finished step, in order, each exactly once."""

    def wants_state(self, step: int) -> bool:
        """Whether `on_state` is due after this step."""
        return False

    def on_state(self, step: int, state: TrainState) -> None:
        """The state after `step` updates; it is gone when this returns."""

    def on_stop(self, step: int, state: TrainState) -> None:
        """The run ends here, complete or not; `on_state` may have run for this step."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How the loop ended.

    Attributes:
        state: the last state.
        step: updates completed.
        request: the agreed request that ended it early; 0: complete.
        abandoned: why a hook gave it up, in which case none was told of the stop.
    """

    state: TrainState
    step: int
    request: int
    abandoned: Abandoned | None = None


def train(
    program: Program,
    state: TrainState,
    batches: Iterator[tuple[Any, int]],
    make_control_word: Callable[[int, int], Any],
    hooks: Sequence[Hook],
    *,
    first_step: int,
    total_steps: int,
    queue: Callable[[], QueueState],
) -> Outcome:
    """Runs the steps `first_step` .. `total_steps - 1`, or until all agree to stop.

    Args:
        program: the compiled train step.
        state: state `first_step`; its buffers are taken over.
        batches: placed batches from `first_step` on, each with the hash of this
            process's share (0 when it is not wanted).
        make_control_word: (request, batch hash) -> control word on the devices.
        hooks: called in this order.
        first_step: batches consumed so far.
        total_steps: where to end.
        queue: how `batches` stood when its latest batch was asked for.
    """
    step, request = first_step, 0
    pending: tuple[int, Any, QueueState] | None = None
    mark = time.perf_counter()

    def finish_pending() -> None:
        """Reads the step that was dispatched before, and tells the hooks."""
        nonlocal pending, mark, request
        if pending is None:
            return
        finished_step, metrics, queue_state = pending
        pending = None
        metrics = jax.device_get(metrics)  # waits for that step
        now = time.perf_counter()
        info = StepInfo(finished_step, metrics, now - mark, queue_state)
        mark = now
        agreed = int(metrics["request"])
        request = max(request, agreed if agreed > SAVE_REQUEST else 0)
        for hook in hooks:
            hook.on_step(info)

    try:
        for hook in hooks:
            hook.on_start(step, state)
        while step < total_steps and not request:
            batch, batch_hash = next(batches)
            queue_state = queue()
            control_word = make_control_word(max((hook.request() for hook in hooks), default=0), batch_hash)
            state, metrics = program(state, batch, control_word)
            step += 1
            finish_pending()
            pending = (step, metrics, queue_state)
            for hook in hooks:
                hook.on_dispatch(step, state)
            due = [hook for hook in hooks if hook.wants_state(step)]
            if due:
                finish_pending()
                for hook in due:
                    hook.on_state(step, state)
                mark = time.perf_counter()
        finish_pending()
    except StopHere as stop:
        request = stop.request
    except Abandoned as abandoned:
        # Without its traceback, whose frames would keep the state in memory.
        return Outcome(state, step, request, abandoned.with_traceback(None))
    for hook in hooks:
        hook.on_stop(step, state)
    return Outcome(state, step, request)
