"""From a start to its end: compile, restore or initialise, train, go back where updates stay bad."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxdp.checkpoint.manifest import committed_steps, read_item
from jaxdp.checkpoint.restoring import restore_latest
from jaxdp.checkpoint.retention import delete_checkpoint
from jaxdp.checkpoint.run_files import describe_run_files
from jaxdp.checkpoint.saving import CheckpointWriter
from jaxdp.config import from_json
from jaxdp.data.prefetch import Prefetch
from jaxdp.experiment.vocabularies import vocabulary_files
from jaxdp.hooks.early_stopping import EarlyStopping
from jaxdp.inference.initial_params import check_initial, start_from
from jaxdp.parallel.barrier import wait_for_all
from jaxdp.report.terminal import print_status
from jaxdp.state import TrainState
from jaxdp.trainer import Hook, Outcome, Request, train
from jaxdp.training import parts
from jaxdp.training.resume import has_finished
from jaxdp.training.retention_rules import retention_of
from jaxdp.training.rollback import Rollbacks
from jaxdp.training.run_context import Start
from jaxdp.training.run_hooks import make_hooks
from jaxdp.training.run_outputs import metrics_writers, record_config, record_provenance
from jaxdp.training.setup import Composition, Programs
from jaxdp.training.startup_report import schedule_change, show_report
from jaxdp.watchdog import TRAINING


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        step: updates completed.
        request: the signal that ended it early, or 0.
        interrupted: it came out of the middle of something, with nothing to save.
    """

    step: int
    request: int
    interrupted: bool = False


def run_session(start: Start) -> Result:
    """Trains until the run is complete, or until all agree to stop."""
    composition, phase = start.composition, start.watchdog.phase
    if composition.config.init_from and not committed_steps(start.directory.checkpoints):
        check_initial(composition.config.init_from, composition.abstract_state.params)
    with phase("compiling"):
        programs = composition.compile()
    if start.control_plane.is_main_process:
        show_report(composition, programs)
    rollbacks = Rollbacks(composition, start.directory.checkpoints)
    with phase("restoring"):
        state, first_step = _restore_or_initialise(start, rollbacks)
    start.preemption.hold(start.control_plane)
    if start.control_plane.is_main_process:
        record_config(start, first_step)
        record_provenance(start, first_step)
    outcome, hooks = _train(start, programs, rollbacks, state, first_step)
    while outcome.aborted:
        with phase("rolling back"):
            last_step = rollbacks.leave_out(outcome.aborted, outcome.state.params)
            del outcome, hooks, state  # there is memory for one
            state, first_step = _roll_back(start, rollbacks, last_step)
        outcome, hooks = _train(start, programs, rollbacks, state, first_step)
    return _end(start, outcome, hooks)


def _restore_or_initialise(
    start: Start, rollbacks: Rollbacks, last_step: int | None = None
) -> tuple[TrainState, int]:
    """Resuming, from a checkpoint up to `last_step`, beats `init_from`, which beats fresh parameters."""
    composition, checkpoints = start.composition, start.directory.checkpoints
    state = restore_latest(
        checkpoints, composition.abstract_state, print_status, last_step, control_plane=start.control_plane, check_place=start.check_place
    )
    if state is not None:
        step = int(state.step)
        rollbacks.adopt(read_item(checkpoints / str(step), "data"), step)
        print_status(f"resuming from checkpoint {step} of {composition.total_steps} steps")
        _say_how_the_schedule_changes(composition, checkpoints / str(step), step)
        return state, step
    state, init_from = composition.fresh_state(), composition.config.init_from
    if init_from:
        initial = start_from(init_from, state.params)
        # The step takes the state's buffers over, so no two leaves may share one.
        ema = None if state.ema is None else jax.tree.map(lambda leaf: leaf.copy(), initial.params)
        state = state.replace(params=initial.params, ema=ema)
        print_status(f"starting from {init_from}: {initial.describe()}")
    return state, 0


def _say_how_the_schedule_changes(composition: Composition, checkpoint: Path, step: int) -> None:
    """Tells the user when the run has another length than the checkpoint was trained for."""
    saved = from_json(read_item(checkpoint, "config"))
    train = composition.data.train
    total_steps = parts.count_steps(saved, train.num_rows if train else None)
    changed = schedule_change(
        step, parts.optimizer_config(saved, total_steps), parts.optimizer_config(composition.config, composition.total_steps)
    )
    if changed:
        print_status(changed)


def _train(
    start: Start, programs: Programs, rollbacks: Rollbacks, state: TrainState, first_step: int
) -> tuple[Outcome, Sequence[Hook]]:
    """The loop with all that writes around it, from a state on; and the hooks it had."""
    composition = start.composition
    config = composition.config
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(metrics_writers(start, first_step))
        writer = CheckpointWriter(
            start.directory.checkpoints,
            retention_of(config, bool(composition.metric.higher_is_better)),
            composition.abstract_state,
            async_save=config.checkpoint.async_save,
            check_place=start.check_place,
            proofs=start.directory.proofs,
            provenance=start.provenance(),
            run_files=_run_files(start),
            metrics=composition.metrics.values(),
        )
        stack.callback(writer.close)
        hooks = make_hooks(start, programs, rollbacks, writer, write, first_step)
        batches = stack.enter_context(
            Prefetch(
                composition.feed.batches(first_step),
                composition.place,
                depth=config.data.prefetch_batches,
            )
        )
        stack.enter_context(start.watchdog.phase(TRAINING))
        outcome = train(
            programs.step,
            state,
            batches,
            composition.control_word_maker(),
            hooks,
            first_step=first_step,
            total_steps=composition.total_steps,
            queue=lambda: batches.queue,
        )
    return outcome, hooks


def _run_files(start: Start) -> dict[str, dict] | None:
    """What checkpoints record of the run's vocabularies; None in a process that saves nothing."""
    if not start.control_plane.is_main_process:
        return None
    return describe_run_files(vocabulary_files(start.composition.data.vocabularies, start.directory).values())


def _roll_back(start: Start, rollbacks: Rollbacks, last_step: int) -> tuple[TrainState, int]:
    """The newest state up to `last_step`; what was saved after it is deleted, once that is restored."""
    checkpoints = start.directory.checkpoints
    wait_for_all("checkpoints are whole", start.composition.topology)
    state, first_step = _restore_or_initialise(start, rollbacks, last_step)
    if first_step == 0:
        print_status("no checkpoint is from before that: starting again from step 1")
    for step in committed_steps(checkpoints) if start.control_plane.is_main_process else ():
        if step > first_step:
            start.check_place()
            delete_checkpoint(checkpoints / str(step))
    return state, first_step


def _end(start: Start, outcome: Outcome, hooks: Sequence[Hook]) -> Result:
    """Says how the run ended."""
    root, total_steps = start.directory.root, start.composition.total_steps
    # A signal during the last step changes nothing: the run is complete. All wait until it is.
    complete = start.control_plane.broadcast(
        start.control_plane.is_main_process
        and outcome.step == total_steps
        and has_finished(start.directory.checkpoints, outcome.step, total_steps)
    )
    request = 0 if complete else outcome.request
    if request == Request.EARLY_STOP:
        [stopping] = [hook for hook in hooks if isinstance(hook, EarlyStopping)]
        print_status(f"{stopping.message}; everything is in {root}")
        return Result(outcome.step, 0)
    print_status(
        f"stopped after step {outcome.step} of {total_steps}; the same command continues"
        if request
        else f"finished {outcome.step} steps; everything is in {root}"
    )
    return Result(outcome.step, request)
