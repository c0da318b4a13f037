"""Training loop: dispatches steps and calls hooks.

The loop dispatches step N + 1 before it reads the metrics of step N, so the devices
never wait for Python. Everything else that happens around a step is done by hooks:
`on_dispatch` may enqueue further device work behind the step, `on_step` receives the
metrics of a finished step, and `on_state` receives the state before the next step
reuses its buffers.
"""

import dataclasses
import enum
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import jax

from jaxdp.data.prefetch import QueueState
from jaxdp.parallel.spmd import Program
from jaxdp.state import TrainState


class Request(enum.IntEnum):
    """Request of one process to all processes of a run.

    Requests travel in the control word of a step. All processes act on the largest one,
    after the same step.
    """

    NONE = 0
    SAVE = 1  # save after the next step and continue
    INTERRUPT = signal.SIGINT  # save and stop, as are all larger ones
    TERMINATE = signal.SIGTERM  # also for SIGHUP, whose number is that of SAVE
    EARLY_STOP = 128  # no improvement for eval.patience evaluations; larger than any signal number

    @property
    def is_stop(self) -> bool:
        """True if the run must stop."""
        return self > Request.SAVE


class AbortTraining(Exception):
    """Raised by a hook's `on_step` to abort training and discard the current state."""


class StopTraining(Exception):
    """Raised by a hook's `on_start` or `on_state` after all processes have agreed to stop at this step.

    Attributes:
        request: Request that all processes have agreed on.
    """

    def __init__(self, request: int):
        self.request = Request(request)
        super().__init__(f"request {self.request.name}")


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """Result of one finished step, read after the next step was dispatched.

    Attributes:
        step: Number of updates completed, including this one.
        metrics: Metrics of the train step as host numbers (see `jaxdp.step`).
        step_secs: Seconds since the previous step finished, without the time that hooks
            spent on the state in between.
        queue: State of the input queue when the loop fetched this step's batch.
        device_wait_secs: Seconds of `step_secs` in which the loop waited for the devices; about 0 if the result was
            ready, so that the devices waited for the loop.
    """

    step: int
    metrics: dict[str, Any]
    step_secs: float
    queue: QueueState
    device_wait_secs: float = 0.0


class Hook:
    """Base class of hooks: code around the steps. Every method is optional.

    Attributes:
        name: Name for the declarations of other hooks; empty: the name of the class.
        after: Names of hooks that this one runs after, in every method.
        before: Names of hooks that this one runs before.
        phase: Name of the work of `on_start`, `on_state` and `on_stop`, for the watchdog, which then allows it the
            time of a phase rather than of a step; empty: none.
    """

    name: ClassVar[str] = ""
    after: ClassVar[Sequence[str]] = ()
    before: ClassVar[Sequence[str]] = ()
    phase: ClassVar[str] = ""

    def on_start(self, step: int, state: TrainState) -> None:
        """Prepares for the loop, which continues from the state after `step` updates."""

    def request(self) -> int:
        """Returns the `Request` of this process; called before each step is dispatched."""
        return Request.NONE

    def on_dispatch(self, step: int, state: TrainState) -> None:
        """Dispatches programs that read the state of the step just dispatched; must not wait for them."""

    def on_step(self, info: StepInfo) -> None:
        """Receives the metrics of every finished step, exactly once and in order."""

    def wants_state(self, step: int) -> bool:
        """Returns whether `on_state` must be called after this step."""
        return False

    def on_state(self, step: int, state: TrainState) -> None:
        """Receives the state after `step` updates; its buffers are reused after the call."""

    def on_stop(self, step: int, state: TrainState) -> None:
        """Finishes pending work when the loop ends, complete or stopped; `on_state` may have seen this step."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of the training loop.

    Attributes:
        state: Last state.
        step: Number of updates completed.
        request: Request that stopped the loop before `total_steps`; NONE if it is complete.
        aborted: Exception of the hook that aborted training, in which case `on_stop` was
            not called; otherwise None.
    """

    state: TrainState
    step: int
    request: Request
    aborted: AbortTraining | None = None


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
    """Runs the steps `first_step` to `total_steps - 1`, or until all processes agree to stop.

    Args:
        program: Compiled train step.
        state: State of step `first_step`; its buffers are donated.
        batches: Batches on the devices from `first_step` on, each with the hash of this
            process's share (0 if it is not computed).
        make_control_word: (request, batch hash) -> control word on the devices.
        hooks: Hooks, called in this order.
        first_step: Number of batches consumed so far.
        total_steps: Number of the step after which training is complete.
        queue: Returns the state of the input queue when the latest batch was fetched.
    """
    step, request = first_step, Request.NONE
    pending: tuple[int, Any, QueueState] | None = None
    mark = time.perf_counter()

    def finish_pending() -> None:
        """Reads the metrics of the previously dispatched step and passes them to the hooks."""
        nonlocal pending, mark, request
        if pending is None:
            return
        finished_step, metrics, queue_state = pending
        pending = None
        asked = time.perf_counter()
        metrics = jax.device_get(metrics)  # waits for that step
        now = time.perf_counter()
        info = StepInfo(finished_step, metrics, now - mark, queue_state, now - asked)
        mark = now
        agreed = Request(int(metrics["request"]))
        if agreed.is_stop:
            request = max(request, agreed)
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
    except StopTraining as stop:
        request = stop.request
    except AbortTraining as abort:
        # The frames of its traceback would keep the state in memory.
        return Outcome(state, step, request, abort.with_traceback(None))
    for hook in hooks:
        hook.on_stop(step, state)
    return Outcome(state, step, request)
