"""The hooks of the training loop: what happens around its steps, in which order."""

import functools
from collections.abc import Mapping

from jaxdp.checkpoint.manifest import read_manifest, record_metrics
from jaxdp.checkpoint.retention import BestSoFar, saved_metrics
from jaxdp.checkpoint.saving import CheckpointWriter
from jaxdp.config import to_json
from jaxdp.hardware.peaks import peak_flops
from jaxdp.hooks.checkpointing import Checkpointing
from jaxdp.hooks.consistency import Consistency
from jaxdp.hooks.divergence import Divergence
from jaxdp.hooks.evaluating import Evaluating
from jaxdp.hooks.every import Every
from jaxdp.hooks.logging import Logging
from jaxdp.hooks.profiling import Profiling
from jaxdp.hooks.watching import InPhase, Watching
from jaxdp.inference.evaluate import Evaluator
from jaxdp.report.terminal import print_status, show_cut
from jaxdp.trainer import Hook
from jaxdp.training.resume import early_stopping
from jaxdp.training.retention_rules import retention_of
from jaxdp.training.rollback import Rollbacks
from jaxdp.training.run_context import RunContext
from jaxdp.training.run_outputs import Write
from jaxdp.training.setup import Programs, TrainingSetup
from jaxdp.trees import named_leaves


def make_hooks(
    context: RunContext,
    programs: Programs,
    rollbacks: Rollbacks,
    writer: CheckpointWriter,
    write: Write,
    first_step: int,
) -> list[Hook]:
    """All hooks, in the order in which the loop calls them.

    Args:
        context: Context of the run.
        programs: what evaluates, and what checks the replicas.
        rollbacks: knows where in the data the run is.
        writer: takes states.
        write: takes metrics.
        first_step: updates completed so far.
    """
    config, phase = context.setup.config, context.watchdog.phase
    evaluating = _evaluating(context, programs.evaluator, write)
    checkpointing = _checkpointing(context, rollbacks, writer, evaluating)
    hooks = [
        context.preemption,
        Watching(context.watchdog),
        _logging(context.setup, write),
        Divergence(config.optim.max_skipped_in_a_row),
        # Before the checkpoint of the same step, which records its result.
        InPhase(evaluating, lambda: phase("evaluating")),
        InPhase(checkpointing, lambda: phase("saving a checkpoint")),
    ]
    if config.eval.patience:
        stopping = early_stopping(
            config, context.directory, first_step, evaluating.last_at, bool(context.setup.metric.higher_is_better)
        )
        hooks.append(stopping)
    if programs.checksums:
        # Before all hooks that use or save the state.
        hooks.insert(0, _consistency(context.setup, programs, checkpointing))
    if context.profile:
        profiling = Profiling(
            context.directory.profile, context.profile.after_step, context.profile.num_steps, print_status, context.check_place
        )
        hooks.append(InPhase(profiling, lambda: phase("profiling")))
    return hooks


def _evaluating(context: RunContext, evaluator: Evaluator, write: Write) -> Evaluating:
    """Evaluation of the averaged parameters where the run has them; then, what it wrote is shown."""
    setup = context.setup

    def write_and_show(step: int, metrics: Mapping[str, float]) -> None:
        write(step, metrics)
        if context.control_plane.is_main_process:
            for sample in evaluator.reports.get("score", {}).get("samples", ()):
                show_cut(tuple(sample.items()))

    return Evaluating(
        Every(setup.config.eval.every_steps, setup.total_steps),
        lambda state: evaluator(
            state.params if state.ema is None else state.ema,
            progress=context.watchdog.beat,
            request=context.preemption.request,
        ),
        write_and_show,
        functools.partial(_owes_evaluation, context),
        functools.partial(_record_metrics, context),
    )


def _owes_evaluation(context: RunContext, step: int) -> bool:
    """Whether the checkpoint of this step was saved in the middle of its evaluation."""
    checkpoint = context.directory.checkpoints / str(step)
    return context.control_plane.broadcast(context.control_plane.is_main_process and step > 0 and not read_manifest(checkpoint).metrics)


def _record_metrics(context: RunContext, step: int, metrics: Mapping[str, float]) -> None:
    if context.control_plane.is_main_process:
        context.check_place()
        record_metrics(context.directory.checkpoints / str(step), metrics)


def _checkpointing(
    context: RunContext, rollbacks: Rollbacks, writer: CheckpointWriter, evaluating: Evaluating
) -> Checkpointing:
    config = context.setup.config
    retention = retention_of(config, bool(context.setup.metric.higher_is_better))
    best = BestSoFar(retention, saved_metrics(context.directory.checkpoints))
    return Checkpointing(
        writer,
        Every(config.checkpoint.every_steps, context.setup.total_steps),
        rollbacks.data_state,
        to_json(config),
        evaluating.last_at,
        evaluations=evaluating.wants_state if retention.keep_best else lambda step: False,
        # Process 0 alone knows for certain what is saved, and deletes it.
        is_best=lambda step, metrics: context.control_plane.broadcast(best.add(step, metrics)),
        minutes=config.checkpoint.every_minutes,
        remaining_secs=context.preemption.remaining_secs,
        log=print_status,
    )


def _logging(setup: TrainingSetup, write: Write) -> Logging:
    peak = peak_flops(setup.topology.kind)
    return Logging(
        Every(setup.config.log.every_steps, setup.total_steps),
        write,
        flops_per_step=setup.flops_per_step,
        peak_flops=peak and peak * setup.topology.num_devices,
        batch_hash=setup.config.log.batch_hash,
        shares=setup.loader.shares,
    )


def _consistency(
    setup: TrainingSetup, programs: Programs, checkpointing: Checkpointing
) -> Consistency:
    return Consistency(
        programs.checksums,
        [name for name, _ in named_leaves(setup.abstract_state)],
        setup.topology,
        Every(setup.config.parallel.check_every_steps),
        checkpointing.wants_state,
    )
