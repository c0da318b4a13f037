"""Training session: compiles, restores or initialises the state, trains, and rolls back after divergence."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from jaxdp.checkpoint.integrity import Intactness
from jaxdp.checkpoint.manifest import committed_steps, read_item, require_manifest
from jaxdp.checkpoint.restoring import restore_latest
from jaxdp.checkpoint.retention import delete_checkpoint
from jaxdp.checkpoint.run_files import describe_run_files
from jaxdp.checkpoint.saving import CheckpointWriter
from jaxdp.checkpoint.sync_parts import sync_parts
from jaxdp.config import from_json
from jaxdp.data.prefetch import Prefetch
from jaxdp.data.vocabularies import vocabulary_files
from jaxdp.errors import UserError
from jaxdp.hooks.divergence import Diverged
from jaxdp.hooks.early_stopping import EarlyStopping
from jaxdp.hooks.evaluating import Evaluating
from jaxdp.hooks.watching import early_stoppers, find_hook
from jaxdp.inference.starting_parameters import check_initial, start_from
from jaxdp.parallel.barrier import wait_for_all
from jaxdp.parallel.host_blocks import true_shapes
from jaxdp.report.terminal import print_status
from jaxdp.stalls import StallMeter
from jaxdp.state import TrainState
from jaxdp.trainer import Hook, Outcome, Request, train
from jaxdp.training.result import Result, recorded_metrics
from jaxdp.training.resume import has_finished
from jaxdp.training.retention_rules import retention_of
from jaxdp.training.rollback import Rollbacks
from jaxdp.training.run_context import RunContext
from jaxdp.training.run_hooks import make_hooks
from jaxdp.training.run_outputs import record_config, record_initial, record_provenance, run_info
from jaxdp.training.setup import Programs, TrainingSetup
from jaxdp.training.startup_report import schedule_change, show_report
from jaxdp.training.update import optimizer_config
from jaxdp.watchdog import TRAINING


def run_session(context: RunContext) -> Result:
    """Trains until the run is complete, or until all agree to stop."""
    setup, phase = context.setup, context.watchdog.phase
    if setup.config.init_from and not committed_steps(context.directory.checkpoints):
        check_initial(setup.config, setup.placement.params, setup.data.vocabularies)
    with phase("compiling"):
        programs = setup.compile()
    if context.control_plane.is_main_process:
        show_report(setup, programs)
    rollbacks = Rollbacks(setup, context.directory, context.control_plane.broadcast)
    with phase("restoring"):
        state, first_step = _restore_or_initialise(context, rollbacks)
        context.timeline.resume(first_step)
    context.preemption.hold(context.control_plane)
    if context.control_plane.is_main_process:
        record_config(context, first_step)
        record_provenance(context, first_step)
    outcome, hooks = _train(context, programs, rollbacks, state, first_step)
    while outcome.aborted:
        if not isinstance(outcome.aborted, Diverged):  # raised by a hook of the user
            raise UserError(
                f"a hook aborted training after step {outcome.step}: {outcome.aborted}"
            ) from outcome.aborted
        with phase("rolling back"):
            last_step = rollbacks.exclude(outcome.aborted, outcome.state.params)
            del outcome, hooks, state  # the devices have memory for one state only
            state, first_step = _roll_back(context, rollbacks, last_step)
            context.timeline.resume(first_step)
        outcome, hooks = _train(context, programs, rollbacks, state, first_step)
    if outcome.request in (Request.NONE, Request.EARLY_STOP):
        rollbacks.check_learned(outcome.state)
    return _end(context, outcome, hooks)


def _restore_or_initialise(
    context: RunContext, rollbacks: Rollbacks, last_step: int | None = None
) -> tuple[TrainState, int]:
    """Returns the first state and its step: from a checkpoint up to `last_step`, else from `init_from`, else initialised."""
    setup, checkpoints = context.setup, context.directory.checkpoints
    state = restore_latest(
        checkpoints,
        setup.placement.portable,
        print_status,
        last_step,
        layout=setup.placement.portable_layout,
        control_plane=context.control_plane,
        check_place=context.check_place,
        **({"fetch": context.mirror.fetch} if context.mirror else {}),
    )
    if state is not None:
        state = setup.placement.from_portable(state)
        step = int(state.step)
        _print_sync_change(setup, checkpoints / str(step))
        rollbacks.load_state(read_item(checkpoints / str(step), "data"), step)
        print_status(f"resuming from checkpoint {step} of {setup.total_steps} steps")
        _print_schedule_change(setup, checkpoints / str(step), step)
        return state, step
    if not setup.config.init_from:
        return setup.fresh_state(), 0
    initial = start_from(setup.config, setup.placement.initial_params(setup.fresh_params), setup.data.vocabularies)
    print_status(f"starting from {setup.config.init_from}: {initial.describe()}")
    if context.control_plane.is_main_process:
        record_initial(context, initial)
    return setup.placement.around(initial.params), 0


def _print_schedule_change(setup: TrainingSetup, checkpoint: Path, step: int) -> None:
    """Prints how the learning rate changes if the run has another length than the checkpoint was trained for."""
    saved = from_json(read_item(checkpoint, "config"))
    train = setup.data.train
    total_steps = saved.num_steps(train.num_rows if train else None)
    changed = schedule_change(
        step, optimizer_config(saved.optim, total_steps), optimizer_config(setup.config.optim, setup.total_steps)
    )
    if changed:
        print_status(changed)


def _print_sync_change(setup: TrainingSetup, checkpoint: Path) -> None:
    """Prints what the strategy could not restore of its own state, if the checkpoint is of another one or of other devices."""
    placement = setup.placement
    parts = sync_parts(require_manifest(checkpoint).leaves, true_shapes(placement.portable, placement.portable_layout))
    saved = from_json(read_item(checkpoint, "config"))
    changed = parts.describe(saved.parallel.sync, setup.config.parallel.sync)
    if changed:
        print_status(changed)


def _train(
    context: RunContext, programs: Programs, rollbacks: Rollbacks, state: TrainState, first_step: int
) -> tuple[Outcome, Sequence[Hook]]:
    """Trains from a state on, and returns the outcome with the hooks of the loop."""
    setup = context.setup
    config = setup.config
    if context.mirror:  # before any process puts shards below a step that still counts in the store
        context.mirror.publish()
    with contextlib.ExitStack() as stack:
        info = stack.enter_context(run_info(context, first_step))
        writer = CheckpointWriter(
            context.directory.checkpoints,
            retention_of(config, bool(setup.metric.higher_is_better)),
            setup.placement.portable,
            async_save=config.checkpoint.async_save,
            check_place=context.check_place,
            proofs=context.directory.proofs,
            provenance=context.provenance(),
            run_files=_run_files(context),
            metrics=setup.metrics.values(),
            layout=setup.placement.portable_layout,
            to_portable=setup.placement.to_portable,
            control_plane=context.control_plane,
            destination=context.mirror,
        )
        stack.callback(writer.close)
        stalls = StallMeter()
        if context.control_plane.num_processes > 1:
            stack.enter_context(stalls)
        hooks = make_hooks(context, programs, rollbacks, writer, info, lambda: stalls.secs)
        batches = stack.enter_context(
            Prefetch(
                setup.loader.batches(first_step),
                setup.place,
                depth=config.data.prefetch_batches,
            )
        )
        stack.enter_context(context.watchdog.phase(TRAINING))
        outcome = train(
            programs.step,
            state,
            batches,
            setup.control_word_maker(),
            hooks,
            first_step=first_step,
            total_steps=setup.total_steps,
            queue=lambda: batches.queue,
        )
    return outcome, hooks


def _run_files(context: RunContext) -> dict[str, dict] | None:
    """Returns the hashes of the vocabulary files, which checkpoints record; None in a process that saves nothing."""
    if not context.control_plane.is_main_process:
        return None
    return describe_run_files(vocabulary_files(context.setup.data.vocabularies, context.directory).values())


def _roll_back(context: RunContext, rollbacks: Rollbacks, last_step: int) -> tuple[TrainState, int]:
    """Restores the newest state up to `last_step`, then deletes the checkpoints after it."""
    checkpoints = context.directory.checkpoints
    wait_for_all("checkpoints are whole", context.setup.topology)
    state, first_step = _restore_or_initialise(context, rollbacks, last_step)
    if first_step == 0:
        print_status("no checkpoint is from before that: starting again from step 1")
    for step in committed_steps(checkpoints) if context.control_plane.is_main_process else ():
        if step > first_step:
            context.check_place()
            delete_checkpoint(checkpoints / str(step))
    return state, first_step


def _end(context: RunContext, outcome: Outcome, hooks: Sequence[Hook]) -> Result:
    """Prints how the run ended, and returns its result."""
    place, total_steps = context.directory.place, context.setup.total_steps
    # A signal during the last step changes nothing: the run is complete. All wait until it is.
    complete = context.control_plane.broadcast(
        context.control_plane.is_main_process
        and outcome.step == total_steps
        and has_finished(context.directory.checkpoints, outcome.step, total_steps, Intactness(context.directory.proofs))
    )
    request = 0 if complete else outcome.request
    if request in (Request.NONE, Request.EARLY_STOP):
        context.timeline.complete()
    evaluating = find_hook(hooks, Evaluating)
    metrics = (evaluating and evaluating.last) or recorded_metrics(context.directory, outcome.step)
    if request == Request.EARLY_STOP:
        stopping = find_hook(hooks, EarlyStopping)
        why = stopping.message if stopping and stopping.is_exhausted else _stopped_by_hook(hooks, outcome.step)
        print_status(f"{why}; everything is in {place}")
        return Result(outcome.step, 0, metrics=metrics, workdir=context.directory.root)
    print_status(
        f"stopped after step {outcome.step} of {total_steps}; the same command continues"
        if request
        else f"finished {outcome.step} steps; everything is in {place}"
    )
    return Result(outcome.step, request, metrics=metrics, workdir=context.directory.root)


def _stopped_by_hook(hooks: Sequence[Hook], step: int) -> str:
    """Describes a stop that a user's hook requested, on this process or another."""
    names = early_stoppers(hooks)
    by = f"the hook {' and '.join(names)}" if names else "a hook of another process"
    return f"stopped early by {by} after step {step}"
